-- Gives a job back that has failed. KEYS: queue, delayed, reserved, notify. ARGV: the job as it is reserved, seconds
-- until it may be taken again. Returns 1, or 0 where its reservation does not hold.

local delay = tonumber(ARGV[2])
if not delay then
	return BAD_ARGUMENTS
end
local wrong = wrong_kind({'list', 'zset', 'zset', 'list'})
if wrong then
	return wrong
end
if redis.call('ZREM', KEYS[3], ARGV[1]) == 0 then
	return 0
end
local job = add(ARGV[1], 'failures', 1)
if delay > 0 then
	redis.call('ZADD', KEYS[2], now() + delay, job)
else
	redis.call('RPUSH', KEYS[1], job)
	redis.call('RPUSH', KEYS[4], '1')
end
return 1
