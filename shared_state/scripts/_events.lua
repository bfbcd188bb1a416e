-- The events of a session, as `<number> <ms> <JSON>`. Its creation is number 0, and told from the session itself; what
-- happens until the end is a list, what comes with the end is kept with it. Of a list over its bound the oldest go.
-- KEYS  1 session   2 its events
-- ARGV  from `first` on, `count` times: when, ms, JSON
-- Appends them to the list; the caller stores in the session how many were noted by now, which is returned.
local function note_events(first, count, noted, bound)
  local entries = {}
  for i = 1, count do
    local at = first + 2 * i - 2
    entries[i] = noted + i .. ' ' .. ARGV[at] .. ' ' .. ARGV[at + 1]
  end
  if redis.call('RPUSH', KEYS[2], unpack(entries)) > bound then
    redis.call('LTRIM', KEYS[2], -bound, -1)
  end
  if noted == 0 then redis.call('PEXPIRE', KEYS[2], math.max(redis.call('PTTL', KEYS[1]), 1)) end
  return noted + count
end
