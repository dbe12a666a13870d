-- Puts a job among those that failed, with why. KEYS: reserved, failed. ARGV: the job as it is reserved, then names
-- and values. Returns 1, or 0 where its reservation does not hold.

if #ARGV % 2 == 0 then
	return BAD_ARGUMENTS
end
local wrong = wrong_kind({'zset', 'stream'})
if wrong then
	return wrong
end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
	return 0
end
-- In this order: a stream whose last number is the greatest takes no more.
redis.call('XADD', KEYS[2], '*', 'job', bare(ARGV[1]), unpack(ARGV, 2))
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
