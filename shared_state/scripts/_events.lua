-- The events of a session: a list of `<number> <ms> <JSON>`. Its creation is told from the session until something else
-- happens, and is then entry 0. Of a list over its bound the oldest go.
-- KEYS  1 session   2 its events
-- ARGV  from `first` on, `count` times: how long ago, ms, JSON
-- returns whether these are the first
local function note_events(first, count, now, bound)
  local last = redis.call('LINDEX', KEYS[2], -1)
  local entries, number = {}, 1
  if last then
    number = tonumber(string.match(last, '^%d+')) + 1
  else
    local of = redis.call('HMGET', KEYS[1], 'client_id', 'task_name', 'created_ms')
    entries[1] = '0 ' .. (of[3] or '0') .. ' '
      .. cjson.encode({event = 'created', client_id = of[1] or '', task_name = of[2] or ''})
  end
  for i = first, first + 2 * count - 2, 2 do
    entries[#entries + 1] = number .. ' ' .. string.format('%.0f', now - ARGV[i]) .. ' ' .. ARGV[i + 1]
    number = number + 1
  end
  if redis.call('RPUSH', KEYS[2], unpack(entries)) > bound then redis.call('LTRIM', KEYS[2], -bound, -1) end
  return not last
end
