-- Registers a worker, so that its reservations can be attributed to it. KEYS: serial, workers. ARGV: its number, or 0 for
-- a new one; its process and host; seconds after which workers that have not registered again are removed. Returns its
-- number.

local number, remember = tonumber(ARGV[1]), tonumber(ARGV[3])
if not (number and remember) then
	return BAD_ARGUMENTS
end
local wrong = wrong_kind({'string', 'zset'})
if wrong then
	return wrong
end
if number == 0 then
	number = redis.call('INCR', KEYS[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now() - remember)
redis.call('ZADD', KEYS[2], now(), string.format('%d', number) .. ' ' .. ARGV[2])
return number
