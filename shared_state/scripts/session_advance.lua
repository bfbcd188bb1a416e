-- Move a session on, or note a step of it, unless it has ended, or a newer connection of its device drives it by now.
-- KEYS  1 session   2 its events   3 its journal
-- ARGV  1 new state ('' = unchanged)   2 field that takes the time ('' = none)   3 event (JSON, '' = none)
--       4 bound of the events   5 channel prefix ('' = the caller publishes)   6 session id
--       7 generation of the connection ('' = of none)   8 how many entries for the journal follow
--       9.. entry, ..., field, value, ...
-- reply {1, state, node ids of the followers, each in line breaks} moved; {0, state} it has ended; {-1} no such session;
--       {-2, state} a newer connection drives it
local there = redis.call('HMGET', KEYS[1], 'state', 'followers', 'generation')
local state = there[1]
if not state then return {-1} end
if state == 'completed' or state == 'failed' or state == 'cancelled' or state == 'timed_out' then return {0, state} end
if ARGV[7] ~= '' then
  if there[3] and tonumber(there[3]) > tonumber(ARGV[7]) then return {-2, state} end
  if there[3] ~= ARGV[7] then redis.call('HSET', KEYS[1], 'generation', ARGV[7]) end
end
if ARGV[1] ~= '' then
  state = ARGV[1]
  redis.call('HSET', KEYS[1], 'state', state)
end
if ARGV[2] ~= '' then
  local time = redis.call('TIME')
  redis.call('HSETNX', KEYS[1], ARGV[2], string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000)))
end
local entries = tonumber(ARGV[8])
if entries > 0 then
  redis.call('RPUSH', KEYS[3], unpack(ARGV, 9, 8 + entries))
  redis.call('PEXPIRE', KEYS[3], math.max(redis.call('PTTL', KEYS[1]), 1))
end
if #ARGV > 8 + entries then redis.call('HSET', KEYS[1], unpack(ARGV, 9 + entries)) end
if ARGV[3] ~= '' then
  local fresh = redis.call('EXISTS', KEYS[2]) == 0
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'e', ARGV[3])
  if fresh then redis.call('PEXPIRE', KEYS[2], math.max(redis.call('PTTL', KEYS[1]), 1)) end
  if there[2] and ARGV[5] ~= '' then
    for node in string.gmatch(there[2], '[^\n]+') do
      redis.call('PUBLISH', ARGV[5] .. node, 'event\n' .. ARGV[6])
    end
  end
end
return {1, state, there[2] or ''}
