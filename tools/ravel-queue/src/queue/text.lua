-- Part of the other scripts. Jobs are JSON, and are changed as text: what is decoded and encoded again loses
-- the order of its keys, empty lists, and the last digits of large numbers.

local QUOTE, BRACE, BRACKET, CLOSE = 34, 123, 91, 125
local NEAR = 160

-- The place of the quote that ends a string which begins at `at`.
local function string_end(text, at)
	local from = at + 1
	while true do
		local hit = string.find(text, '["\\]', from)
		if not hit then
			return nil
		end
		if string.byte(text, hit) == QUOTE then
			return hit
		end
		from = hit + 2
	end
end

-- Where an object ends, and the first and last place of the number that a key of its own has. Nothing where
-- the text is no object, and no places where the key is not there or has something else. Of a key that is
-- there twice the last counts, as it does for those who decode.
local function find_number(text, key)
	local at = string.match(text, '^%s*{()')
	if not at then
		return nil
	end
	local depth, close, first, last = 1, nil, nil, nil
	while depth > 0 do
		local hit = string.find(text, '["{}%[%]]', at)
		if not hit then
			return nil
		end
		local byte = string.byte(text, hit)
		if byte == QUOTE then
			local quote = string_end(text, hit)
			if not quote then
				return nil
			end
			if depth == 1 and string.sub(text, hit + 1, quote - 1) == key then
				local value = string.match(text, '^%s*:%s*()', quote + 1)
				if value then
					first, last = string.match(text, '^()%d+()%s*[,}]', value)
					if first and last - first > 9 then
						first = nil
					end
				end
			end
			hit = quote
		elseif byte == BRACE or byte == BRACKET then
			depth = depth + 1
		else
			depth = depth - 1
			close = hit
		end
		at = hit + 1
	end
	if not string.find(text, '^%s*$', at) then
		return nil
	end
	return close, first, last and last - 1
end

-- The same of most jobs, in a third of the time: the key is near the end, and no bracket is between. In JSON that is a
-- key of the outermost object, then, unless it is in a string; and there is a backslash before each of a string's quotes.
local function find_near_end(text, key)
	local pattern = '[,{]"' .. key .. '":()%d+()([^{}%[%]]*)}%s*$'
	local first, behind, rest = string.match(text, pattern, math.max(#text - NEAR, 1))
	local is_whole = first and behind - first < 10 and string.find(rest .. '}', '^%s*[,}]')
	if is_whole and not string.find(rest, key, 1, true) and pcall(cjson.decode, text) then
		return behind + #rest, first, behind - 1
	end
	return find_number(text, key)
end

-- A job with a number of its own changed, or added where there is none: its text and the number. The text as it
-- was and nothing where it is no object.
local function add(text, key, by)
	local close, first, last = find_near_end(text, key)
	if not close then
		return text, nil
	end
	local number = by
	if first then
		number = number + tonumber(string.sub(text, first, last))
	end
	if number < 0 then
		number = 0
	end
	local digits = string.format('%d', number)
	if first then
		return string.sub(text, 1, first - 1) .. digits .. string.sub(text, last + 1), number
	end
	local comma = string.find(text, '^%s*{%s*}') and '' or ','
	local field = comma .. '"' .. key .. '":' .. digits
	return string.sub(text, 1, close - 1) .. field .. string.sub(text, close), number
end

-- A number of a job's own, if it has it.
local function number(text, key)
	local _, first, last = find_near_end(text, key)
	return first and tonumber(string.sub(text, first, last))
end

-- White space behind a job distinguishes one reservation from all others, also of a job with the same text: in a set
-- two that are equal would be one. It is a line feed and the number of the worker, and a line feed and the number of the
-- reservation, in blanks and tabs. (An earlier version had no worker.)
local function bare(text)
	if string.byte(text, -1) == CLOSE then
		return text
	end
	local job, worker, serial = string.match(text, '^(.*)\n([ \t]+)\n([ \t]+)$')
	if job and #worker % 3 == 0 and #serial % 3 == 0 then
		return job
	end
	return string.match(text, '^(.*)\n[ \t]+$') or text
end

-- The bits of a number, the lowest first, three at a time.
local SIGNS = {[0] = '   ', '\t  ', ' \t ', '\t\t ', '  \t', '\t \t', ' \t\t', '\t\t\t'}
local known = {[0] = ''}

local function signs(number)
	if not known[number] then
		local low = number % 8
		known[number] = SIGNS[low] .. signs((number - low) / 8)
	end
	return known[number]
end

local function mark(text, worker, number)
	return bare(text) .. worker .. '\n' .. signs(number)
end

local function now()
	return tonumber(redis.call('TIME')[1])
end

-- A script is not rolled back: whatever could fail is looked at before anything is changed. An error where a key has
-- something else than it should, else nothing.
local function wrong_kind(kinds)
	for at, kind in ipairs(kinds) do
		local found = redis.call('TYPE', KEYS[at]).ok
		if found ~= kind and found ~= 'none' then
			return redis.error_reply('WRONGTYPE ' .. KEYS[at] .. ' holds a ' .. found .. ', not a ' .. kind)
		end
	end
end

local BAD_ARGUMENTS = redis.error_reply('ERR a script of ravel was called with other arguments than it takes')

