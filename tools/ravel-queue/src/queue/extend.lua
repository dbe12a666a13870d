-- Has reservations hold for longer. KEYS: reserved. ARGV: seconds from now, then the jobs as they are reserved.
-- Returns for each 1, or 0 where its reservation holds no more.

local seconds = tonumber(ARGV[1])
if not seconds then
	return BAD_ARGUMENTS
end
local wrong = wrong_kind({'zset'})
if wrong then
	return wrong
end
local until_when = now() + seconds
local holds = {}
for at = 2, #ARGV do
	local held = redis.call('ZSCORE', KEYS[1], ARGV[at])
	if held then
		redis.call('ZADD', KEYS[1], until_when, ARGV[at])
	end
	holds[at - 1] = held and 1 or 0
end
return holds
