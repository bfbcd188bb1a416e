-- Move a session on, or note what happened in it, unless it has ended, or a newer connection of its device drives it by now.
-- A running session does not become dispatched again: what was noted late does not undo what was noted at once.
-- KEYS  1 session   2 its events   3 its journal
-- ARGV  1 new state ('' = unchanged)   2 channel prefix ('' = the caller publishes)   3 session id
--       4 generation of the connection ('' = of none)   5 bound of the events   6 how many stamps   7 how many events
--       8 how many entries for the journal follow   9 when the session was created, ms: of one whose id was used again
--       since, nothing is stored ('' = whichever has the id)
--       10.. stamp: field, when, ms, ... (the first of a field stands); event: when, ms, JSON, ...; entry, ...;
--       field, value, ...
-- reply {1, state, node ids of the followers, each in line breaks} moved; {0, state} it has ended; {-1} no such session;
--       {-2, state} a newer connection drives it, or another session has its id
-- uses: _events
-- uses: _terminal
-- uses: _wakeup
-- uses: _memory
local there = redis.call('HMGET', KEYS[1], 'deadline_ms', 'state', 'followers', 'generation', 'events', 'dispatched_ms',
  'started_ms', 'created_ms')
local state = there[2] or 'created'
if not there[1] then return {-1} end
if ARGV[9] ~= '' and there[8] and there[8] ~= ARGV[9] then return {-2, state} end
if is_terminal(state) then return {0, state} end
if ARGV[4] ~= '' and there[4] and tonumber(there[4]) > tonumber(ARGV[4]) then return {-2, state} end
local fields = {'more', '1'}
local function set(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if ARGV[4] ~= '' and there[4] ~= ARGV[4] then set('generation', ARGV[4]) end
if ARGV[1] ~= '' and not (ARGV[1] == 'dispatched' and state == 'running') then
  state = ARGV[1]
  set('state', state)
end
-- A step that is small is stored although memory is short (docs/REDIS.md): after a write that takes no memory, and here
-- removes nothing, Redis lets a script go on.
local bytes = 0
for i = 10, #ARGV do bytes = bytes + #ARGV[i] end
if bytes <= SMALL_BYTES then redis.call('HDEL', KEYS[1], '') end
local at = 10
local stamped = {dispatched_ms = there[6], started_ms = there[7]}
for _ = 1, tonumber(ARGV[6]) do
  if not stamped[ARGV[at]] then set(ARGV[at], ARGV[at + 1]) end
  at = at + 2
end
local events = tonumber(ARGV[7])
if events > 0 then set('events', note_events(at, events, tonumber(there[5] or '0'), tonumber(ARGV[5]))) end
at = at + 2 * events
local entries = tonumber(ARGV[8])
if entries > 0 then
  redis.call('RPUSH', KEYS[3], unpack(ARGV, at, at + entries - 1))
  redis.call('PEXPIRE', KEYS[3], math.max(redis.call('PTTL', KEYS[1]), 1))
  set('journaled', '1')
  at = at + entries
end
for i = at, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[1], unpack(fields))
if events > 0 and there[3] then wake(there[3], ARGV[2], 'event\n' .. ARGV[3]) end
return {1, state, there[3] or ''}
