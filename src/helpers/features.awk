# SPDX-License-Identifier: GPL-2.0

# Looks up in a kernel tree what features.list names, which describes the format. Kbuild runs
#
#   awk -v objtree=DIR -v srctree=DIR -f features.awk features.list
#
# Prints the features that the kernel has, or "stop" and what it lacks that ravel needs.

# Returns whether a line has a word, or a member of that name: what follows tells it from a type.
function has(line, word, is_member)
{
	if (is_member)
		return line ~ ("(^|[^A-Za-z0-9_])" word "[ \t]*[;,:[]")
	return index(" " line " ", " " word " ")
}

# Returns those of the words that the file, or the structure in it, lacks; or the file, if there is none.
function look(where, words, count,    part, path, line, within, found, left, lacks, state, i)
{
	split(where, part, ":")
	path = objtree "/" part[1]
	if ((getline line < path) < 0)
		path = srctree "/" part[1]
	close(path)
	if ((state = (getline line < path)) < 0)
		return part[1]
	within = part[2] == ""
	left = count
	while (left && state > 0) {
		if (!within && line == "struct " part[2] " {")
			within = 1
		else if (within && part[2] != "" && line ~ /^}/)
			break
		if (part[2] == "")
			gsub(/[^A-Za-z0-9_=]+/, " ", line)
		for (i = 1; within && i <= count; i++)
			if (!(i in found) && has(line, words[i], part[2] != "")) {
				found[i]
				left--
			}
		state = (getline line < path)
	}
	close(path)
	for (i = 1; i <= count; i++)
		if (!(i in found))
			lacks = lacks (lacks ? ", " : "") (part[2] ? part[2] "." : "") words[i]
	return lacks
}

# The sentence that belongs to a need.
lacking && /^\t/ {
	sub(/^\t/, "")
	features = "stop it has no " lacking ", and " $0
	exit
}

$1 == "need" || $1 == "have" {
	first = $1 == "need" ? 3 : 4
	split("", words)
	for (i = first; i <= NF; i++) {
		gsub(/\+/, " ", $i)
		words[i - first + 1] = $i
	}
	missing = look($(first - 1), words, NF - first + 1)
	if ($1 == "need")
		lacking = missing
	else if (!missing)
		features = features " " $2
}

END {print features}
