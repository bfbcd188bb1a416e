-- Store a new session, which is active from now on, and have the node that holds its device begin it.
-- Safe to repeat: the session is known by its id, which nobody else uses.
-- What need not be asked is not: each command that a script calls costs Redis as much as one that a client sends.
-- KEYS  1 registration   2 active sessions   3 the client's newest sessions   4 session
--       5 its task's name (only where one server holds all keys; in a Cluster it is in another slot, and claimed before)
-- ARGV  1 order   2 channel prefix ('' = the caller wakes the node)   3 session id   4 its deadline, ms   5 entry for the
--       newest sessions   6 life of the session, and of the newest, ms   7 bound of the active sessions
--       8 generation that the caller takes the client to be in ('' = it does not matter)   9 features likewise
--       10 claim of the task's name ('' = it has been claimed)
--       as a rule no more, since each costs as much as a command does:
--       11 'renew' = lives are to be renewed ('' = only what is new gets one, and the caller renewed them lately), 'wait' =
--       that, and also for a client that nobody knows
--       12 order with its commands, 13.. field, value, ... of the session, beside its order and its deadline
-- reply how many have heard the wake-up, a number from 0 on; or the id of the node that the caller is to wake ('' = none:
--       nobody holds the client now, or it was started before, and its wake-up said).
--       -2 too many active sessions; -3 the client is not what the caller takes it to be; -4 another claim has the name;
--       -5 not registered
-- uses: _bounds
local there = redis.call('HMGET', KEYS[1], 'node_id', 'generation', 'features')
local node = there[1] or ''
local how = ARGV[11] or ''
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- What the caller has to tell of a session that was started before.
local again = ARGV[2] == '' and node or ''
-- Where the set is not empty, the member that keeps it (shared_state/keys.py) counts, too. Those whose deadline is over
-- are looked for only where there seem to be too many.
local active, bound = redis.call('ZCARD', KEYS[2]), tonumber(ARGV[7])
if active > bound then active = redis.call('ZCOUNT', KEYS[2], now_ms(), '+inf') end
local changed = ARGV[8] ~= '' and (there[2] ~= ARGV[8] or there[3] ~= ARGV[9])
local refused = not there[2] and how ~= 'wait' and -5 or changed and -3 or active > bound and -2
if refused then
  if redis.call('EXISTS', KEYS[4]) == 1 then return again end
  return refused
end
if KEYS[5] and not redis.call('SET', KEYS[5], ARGV[10], 'NX', 'PX', ARGV[6]) then
  if redis.call('GET', KEYS[5]) ~= ARGV[10] then return -4 end
end
-- These two never change: written once more they change nothing, and none of them is new.
if redis.call('HSET', KEYS[4], 'order', ARGV[1], 'deadline_ms', ARGV[4]) == 0 then return again end
if ARGV[13] then redis.call('HSET', KEYS[4], unpack(ARGV, 13)) end
redis.call('PEXPIRE', KEYS[4], ARGV[6])
local renew = how ~= ''
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3])
if active == 0 then redis.call('ZADD', KEYS[2], '9007199254740991', '') end
if active == 0 or renew then
  local life = math.max(ARGV[4] - now_ms(), 0) + ACTIVE_SLACK_MS + RENEW_SLACK_MS
  if redis.call('PTTL', KEYS[2]) < life then redis.call('PEXPIRE', KEYS[2], life) end
end
-- At its end: what is put before a list moves all that stands there.
local listed = redis.call('RPUSH', KEYS[3], ARGV[5])
if listed > 1.1 * NEWEST_BOUND then redis.call('LTRIM', KEYS[3], -NEWEST_BOUND, -1) end
if listed == 1 or renew then
  local life = ARGV[6] + RENEW_SLACK_MS
  if redis.call('PTTL', KEYS[3]) < life then redis.call('PEXPIRE', KEYS[3], life) end
end
if node == '' or ARGV[2] == '' then return node end
return redis.call('PUBLISH', ARGV[2] .. node, ARGV[12] or ARGV[1])
