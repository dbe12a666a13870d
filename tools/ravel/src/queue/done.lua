-- Ends a job. KEYS: queue, reserved, notify. ARGV: the job as it is reserved.
-- Returns 1, or 0 where another has it. One that is back in the queue, and that nobody has taken since, is done, too.

if redis.call('ZREM', KEYS[2], ARGV[1]) == 1 then
	return 1
end
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then
	redis.call('LPOP', KEYS[3])
	return 1
end
return 0
