-- Store a new session, which is active from now on, and have the node that holds its device begin it.
-- Safe to repeat: the session is known by its id, which nobody else uses.
-- What need not be asked is not: each command that a script calls costs Redis as much as one that a client sends, and each
-- argument a sixth of that.
-- KEYS  1 registration   2 active sessions   3 the client's newest sessions   4 session
--       5 its task's name, to be claimed (only where one server holds all keys; in a Cluster it is in another slot)
-- ARGV  1 order   2 channel of the node that holds the client, by what the caller takes it to be; the prefix of channels where
--       the caller does not know ('' = the caller wakes the node)   3 session id   4 its deadline, ms
--       5 life of the session, and of the newest, ms   6 bound of the active sessions
--       7 who holds the client, as the caller takes it to be ('' = it does not matter)
--       as a rule no more, since each costs as much as a command does:
--       8 'renew' = lives are to be renewed ('' = only what is new gets one, and the caller renewed them lately), 'wait' =
--       that, and also for a client that nobody knows
--       9 order with its commands, 10.. field, value, ... of the session, beside its order and its deadline
-- reply how many have heard the wake-up, a number from 0 on; or, where the caller is to wake the node, its id, or what
--       argument 7 was ('' = none: nobody holds the client now, or it was started before, and its wake-up said).
--       -2 too many active sessions; -3 the client is not what the caller takes it to be; -4 another session has the name;
--       -5 not registered
-- uses: _bounds
local how = ARGV[8] or ''
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- Where the channel is given, the node need not be asked for.
local node, known, refused = '', ARGV[7] ~= '', false
if known then
  if redis.call('HGET', KEYS[1], 'held') ~= ARGV[7] then refused = -3 end
  node = ARGV[7]
else
  local there = redis.call('HMGET', KEYS[1], 'node_id', 'generation')
  node = there[1] or ''
  if not there[2] and how ~= 'wait' then refused = -5 end
end
-- What the caller has to tell of a session that was started before.
local again = ARGV[2] == '' and node or ''
-- Where the set is not empty, the member that keeps it (shared_state/keys.py) counts, too. Those whose deadline is over
-- are looked for only where there seem to be too many.
local active, bound = redis.call('ZCARD', KEYS[2]), tonumber(ARGV[6])
if active > bound then active = redis.call('ZCOUNT', KEYS[2], now_ms(), '+inf') end
refused = refused or active > bound and -2
if refused then
  if redis.call('EXISTS', KEYS[4]) == 1 then return again end
  return refused
end
if KEYS[5] and not redis.call('SET', KEYS[5], ARGV[3], 'NX', 'PX', ARGV[5]) then
  if redis.call('GET', KEYS[5]) ~= ARGV[3] then return -4 end
end
-- These two never change: written once more they change nothing, and none of them is new.
if redis.call('HSET', KEYS[4], 'order', ARGV[1], 'deadline_ms', ARGV[4]) == 0 then return again end
if ARGV[10] then redis.call('HSET', KEYS[4], unpack(ARGV, 10)) end
redis.call('PEXPIRE', KEYS[4], ARGV[5])
local renew = how ~= ''
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3])
if active == 0 then redis.call('ZADD', KEYS[2], '9007199254740991', '') end
if active == 0 or renew then
  local life = math.max(ARGV[4] - now_ms(), 0) + ACTIVE_SLACK_MS + RENEW_SLACK_MS
  if redis.call('PTTL', KEYS[2]) < life then redis.call('PEXPIRE', KEYS[2], life) end
end
-- At its end: what is put before a list moves all that stands there.
local listed = redis.call('RPUSH', KEYS[3], ARGV[3])
if listed > 1.1 * NEWEST_BOUND then redis.call('LTRIM', KEYS[3], -NEWEST_BOUND, -1) end
if listed == 1 or renew then
  local life = ARGV[5] + RENEW_SLACK_MS
  if redis.call('PTTL', KEYS[3]) < life then redis.call('PEXPIRE', KEYS[3], life) end
end
if ARGV[2] == '' then return node end
if known then return redis.call('PUBLISH', ARGV[2], ARGV[9] or ARGV[1]) end
if node == '' then return node end
return redis.call('PUBLISH', ARGV[2] .. node, ARGV[9] or ARGV[1])
