-- Moves due jobs to the queue, then reserves the next.
-- KEYS: queue, delayed, reserved, notify, serial. ARGV: seconds to reserve it for, how many to move at most from each
-- set, 1 if a token of notify was taken for this already.
-- Returns 1, the job as it is reserved and its attempts (-1 where it is no job), or 0, an empty string and the
-- seconds until the next is due (-1 where none is).

local time = now()

local function ripen(set)
	local due = redis.call('ZRANGEBYSCORE', set, '-inf', time, 'LIMIT', 0, ARGV[2])
	if #due == 0 then
		return
	end
	local tokens = {}
	for at = 1, #due do
		tokens[at] = '1'
	end
	redis.call('RPUSH', KEYS[1], unpack(due))
	redis.call('RPUSH', KEYS[4], unpack(tokens))
	redis.call('ZREM', set, unpack(due))
end

local function wait(set)
	local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
	return first and math.max(math.ceil(tonumber(first) - time), 0)
end

ripen(KEYS[2])
ripen(KEYS[3])
local job = redis.call('LINDEX', KEYS[1], 0)
if not job then
	redis.call('DEL', KEYS[4])
	local delayed, reserved = wait(KEYS[2]), wait(KEYS[3])
	return {0, '', math.min(delayed or reserved or -1, reserved or delayed or -1)}
end
local raised, attempts = add(job, 'attempts', 1)
local reserved = mark(raised, redis.call('INCR', KEYS[5]))
-- It leaves the queue last: whatever fails before, it is still there.
redis.call('ZADD', KEYS[3], time + tonumber(ARGV[1]), reserved)
redis.call('LPOP', KEYS[1])
if ARGV[3] ~= '1' then
	redis.call('LPOP', KEYS[4])
end
return {1, reserved, attempts or -1}
