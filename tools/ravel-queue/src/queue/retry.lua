-- Has a job that failed run again, as if it were new. KEYS: queue, notify, failed. ARGV: its id.
-- Returns 1, or 0 where there is none.

local wrong = wrong_kind({'list', 'list', 'stream'})
if wrong then
	return wrong
end
local found = redis.call('XRANGE', KEYS[3], ARGV[1], ARGV[1])[1]
if not found then
	return 0
end
local fields = found[2]
for at = 1, #fields, 2 do
	if fields[at] == 'job' then
		local job = fields[at + 1]
		for _, key in ipairs({'attempts', 'failures'}) do
			local _, first = find_number(job, key)
			if first then
				job = add(job, key, -999999999)
			end
		end
		redis.call('RPUSH', KEYS[1], job)
		redis.call('RPUSH', KEYS[2], '1')
	end
end
redis.call('XDEL', KEYS[3], ARGV[1])
return 1
