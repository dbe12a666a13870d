-- Puts a job among those that failed, with why. KEYS: reserved, failed. ARGV: the job as it is reserved, then names
-- and values. Returns 1, or 0 where another has it.

if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
	return 0
end
redis.call('XADD', KEYS[2], '*', 'job', bare(ARGV[1]), unpack(ARGV, 2))
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
