-- Pushes jobs that were not pushed before.
-- KEYS: queue, notify, pushed. ARGV: the time from which on this call is too late, or 0; seconds to remember names for;
-- how many to forget, those, then a name and a job each.
-- Returns how many were pushed, or -1 where the call is too late: whoever made it has given up on it.

local latest, remember, forget = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if not (latest and remember and forget and (#ARGV - 3 - forget) % 2 == 0) then
	return BAD_ARGUMENTS
end
local wrong = wrong_kind({'list', 'list', 'zset'})
if wrong then
	return wrong
end
local time = now()
if latest > 0 and time >= latest then
	return -1
end
for at = 4, forget + 3 do
	redis.call('ZREM', KEYS[3], ARGV[at])
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', time - remember)
local pushed = 0
for at = forget + 4, #ARGV, 2 do
	if not redis.call('ZSCORE', KEYS[3], ARGV[at]) then
		redis.call('RPUSH', KEYS[1], ARGV[at + 1])
		redis.call('RPUSH', KEYS[2], '1')
		redis.call('ZADD', KEYS[3], time, ARGV[at])
		pushed = pushed + 1
	end
end
-- Also where all were there already: a write that a WAITAOF behind it can wait for.
redis.call('EXPIRE', KEYS[3], remember)
return pushed
