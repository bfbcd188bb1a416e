-- End sessions of which nothing but their start is stored.
-- That is: none of their steps, nobody who waits for them or is to be told, no commands to be forgotten. What is more, or
-- has ended, is left as it is, for a call of its own (session_end).
-- KEYS  1 session   2 active sessions of its device   3.. session, active sessions, ...
-- ARGV  1 retention, ms   2 of how many, the first ones, the life is cut to the retention
--       3.. session id, state, end: id, line break, what came with it (JSON), ...
-- reply the numbers, from 1 on, of those that are left
-- uses: _memory
local left, number, at = {}, 0, 3
local cut = tonumber(ARGV[2])
for i = 1, #KEYS, 2 do
  number = number + 1
  -- Its order and its deadline.
  if redis.call('HLEN', KEYS[i]) == 2 then
    -- First where it is small, since it takes no memory: after it the rest is written although memory is short (docs/REDIS.md).
    local small = #ARGV[at + 2] <= SMALL_BYTES
    if small then redis.call('ZREM', KEYS[i + 1], ARGV[at]) end
    redis.call('HSET', KEYS[i], 'state', ARGV[at + 1], 'end', ARGV[at + 2])
    if number <= cut then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
    if not small then redis.call('ZREM', KEYS[i + 1], ARGV[at]) end
  else
    left[#left + 1] = number
  end
  at = at + 3
end
return left
