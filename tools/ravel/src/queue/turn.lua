-- A worker's turn: ends jobs that are done, moves due ones to the queue, and reserves the next.
-- KEYS: queue, delayed, reserved, notify, serial. ARGV: seconds to reserve them for, how many to move at most from each
-- set, 1 if a token of notify was taken for the next already, how many to take at most, from how many bytes on no more
-- are taken, how many the worker has that are not done, then the jobs that are done as they are reserved.
-- Returns the places, among those that are done, of those that another has; of each job taken its text, as it is
-- reserved, and its attempts (-1 where it is no job); and where none is ready, the seconds until the next is due (-1
-- where none is).

local most, bytes, others = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local missed = {}
for at = 7, #ARGV do
	-- One that is back in the queue, and that nobody has taken since, is done, too.
	if redis.call('ZREM', KEYS[3], ARGV[at]) == 0 then
		if redis.call('LREM', KEYS[1], 1, ARGV[at]) == 1 then
			redis.call('LPOP', KEYS[4])
		else
			missed[#missed + 1] = at - 6
		end
	end
end
if most == 0 then
	return {missed, {}, -1}
end

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
most = math.min(most, redis.call('LLEN', KEYS[1]))
if most == 0 then
	redis.call('DEL', KEYS[4])
	local delayed, reserved = wait(KEYS[2]), wait(KEYS[3])
	return {missed, {}, math.min(delayed or reserved or -1, reserved or delayed or -1)}
end
local last = redis.call('INCRBY', KEYS[5], most)
local until_when = time + tonumber(ARGV[1])
local taken, reserve, count, full = {}, {}, 0, false
while count < most and not full do
	-- As many as before again: where they are large, few are looked at in vain.
	local jobs = redis.call('LRANGE', KEYS[1], count, math.min(2 * count, most - 1))
	for _, job in ipairs(jobs) do
		local raised, attempts = add(job, 'attempts', 1)
		-- One that was lost with its worker is taken alone: were it to end its worker again, others would be lost with it.
		local alone = attempts and attempts > 1 and attempts - 1 > (number(job, 'failures') or 0)
		full = alone and count + others > 0
		if full then
			break
		end
		count = count + 1
		raised = mark(raised, last - most + count)
		taken[2 * count - 1], taken[2 * count] = raised, attempts or -1
		reserve[2 * count - 1], reserve[2 * count] = until_when, raised
		bytes = bytes - #raised
		full = alone or bytes <= 0
		if full then
			break
		end
	end
end
if count > 0 then
	-- They leave the queue last: whatever fails before, they are still there.
	redis.call('ZADD', KEYS[3], unpack(reserve))
	redis.call('LTRIM', KEYS[1], count, -1)
	redis.call('LTRIM', KEYS[4], ARGV[3] == '1' and count - 1 or count, -1)
end
return {missed, taken, -1}
