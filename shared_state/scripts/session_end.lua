-- End a session; the first terminal state wins. Safe to repeat: the same end is answered the same. Wakes the nodes where
-- somebody waits for the end.
-- KEYS  1 session   2 its events   3 its journal   4 active sessions of its device (only where they live together: the
--       session is settled)
-- ARGV  1 state   2 end: id, line break, what came with it (JSON)   3 retention, ms   4 moment, ms: if its deadline is behind
--       that, its life is cut to the retention   5 channel prefix ('' = the caller publishes)   6 session id
--       7 generation of the connection that ends it ('' = of none)   8 condition, as a rule none: 'overdue' = only if its
--       deadline has passed, 'gone' = unless it waits for its device to come, 'untaken' = only if it has waited for that
--       long enough ('' = none)   9 when the session was created, ms: one whose id was used again since is not ended
-- reply 1 ended, its device is the caller's, and nobody else is to be told;
--       {1, order ('' if the device is the caller's, and only REST asked for it), node ids of the watchers, of the
--       followers, each in line breaks} ended; {0, state} it had ended before, or the condition does not hold;
--       -1 no such session; -2 a newer connection drives it, or another session has its id
-- A larger end is refused while Redis has no memory left.
-- uses: _terminal
-- uses: _wakeup
-- uses: _memory
local function settle()
  if KEYS[4] then redis.call('ZREM', KEYS[4], ARGV[6]) end
end
local there = redis.call('HMGET', KEYS[1], 'deadline_ms', 'state', 'more')
if not there[1] then
  settle()
  return -1
end
local state = there[2] or 'created'
-- Of most sessions there is nothing more to look at.
local more = {}
if there[3] then
  more = redis.call('HMGET', KEYS[1], 'owner', 'watchers', 'followers', 'commands', 'journaled', 'events',
    'queue_until_ms', 'generation', 'created_ms')
end
if ARGV[9] and more[9] and more[9] ~= ARGV[9] then return -2 end
local order = ''
if more[1] or not KEYS[4] then order = redis.call('HGET', KEYS[1], 'order') end
if is_terminal(state) then
  local mine = string.match(ARGV[2], '^[^\n]*\n')
  if string.sub(redis.call('HGET', KEYS[1], 'end'), 1, #mine) == mine then return {1, order, '', ''} end
  settle()
  return {0, state}
end
if ARGV[7] ~= '' and more[8] and tonumber(more[8]) > tonumber(ARGV[7]) then return -2 end
if ARGV[8] and ARGV[8] ~= '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local queued = state == 'created' and tonumber(more[7] or '0') > now
  if ARGV[8] == 'overdue' and tonumber(there[1]) > now then return {0, state} end
  if ARGV[8] == 'gone' and queued then return {0, state} end
  if ARGV[8] == 'untaken' and (state ~= 'created' or queued) then return {0, state} end
end
-- A write that takes no memory comes first: after it Redis lets a script go on to its end although memory is short (see
-- docs/REDIS.md). What is large stays subject to its bound.
if #ARGV[2] <= SMALL_BYTES then
  if KEYS[4] then settle() else redis.call('HDEL', KEYS[1], 'watchers', 'followers', 'commands') end
end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'end', ARGV[2])
if more[2] or more[3] or more[4] then redis.call('HDEL', KEYS[1], 'watchers', 'followers', 'commands') end
-- It lives until its deadline and the retention: cut where that is worth a command.
if tonumber(there[1]) > tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
if more[6] then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
if more[5] then redis.call('DEL', KEYS[3]) end
if #ARGV[2] > SMALL_BYTES then settle() end
if more[2] then wake(more[2], ARGV[5], 'ended\n' .. ARGV[6]) end
if more[3] then wake(more[3], ARGV[5], 'event\n' .. ARGV[6]) end
if order == '' and not more[2] and not more[3] then return 1 end
return {1, order, more[2] or '', more[3] or ''}
