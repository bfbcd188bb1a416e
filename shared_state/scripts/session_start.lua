-- Store a new session, which is active from now on, and have the node that holds its device begin it.
-- Safe to repeat: the session is known by its id, which nobody else uses.
-- What need not be asked is not: each command that a script calls costs Redis as much as one that a client sends.
-- KEYS  1 registration   2 active sessions   3 the client's newest sessions   4 session
--       5 its task's name (only where one server holds all keys; in a Cluster it is in another slot, and claimed before)
-- ARGV  1 client id   2 order   3 what the node is told, if it is not the order ('' = it is)   4 channel prefix ('' = the
--       caller publishes)   5 session id   6 its deadline, ms   7 life of the set of active sessions, ms   8 entry for the
--       newest sessions   9 their bound   10 life of the session, and of the newest, ms   11 'renew' = lives are to be
--       renewed ('' = only what is new gets one, and the caller renewed them lately), 'wait' = that, and also for a
--       client that nobody knows   12 bound of the active sessions   13 now, ms: those whose deadline is over do not count
--       14 generation that the caller takes the client to be in ('' = it does not matter)   15 features likewise
--       16 how much longer lives are made   17 claim of the task's name ('' = it has been claimed)
--       18.. field, value, ... of the session, beside its order and its deadline (as a rule none)
-- reply {1, node id ('' = nobody holds the client now), session id ('' = it was started before), receivers};
--       {0} not registered; {-2} too many active sessions; {-3} the client is not what the caller takes it to be;
--       {-4} another claim has the name
local there = redis.call('HMGET', KEYS[1], 'node_id', 'generation', 'features')
local node = there[1] or ''
if not there[2] and ARGV[11] ~= 'wait' then return {0} end
-- Where the set is not empty, the member that keeps it (shared_state/keys.py) counts, too.
local active = redis.call('ZCOUNT', KEYS[2], ARGV[13], '+inf')
local changed = ARGV[14] ~= '' and (there[2] ~= ARGV[14] or there[3] ~= ARGV[15])
local refused = changed and -3 or active > tonumber(ARGV[12]) and -2
if refused then
  if redis.call('EXISTS', KEYS[4]) == 1 then return {1, node, '', 1} end
  return {refused}
end
if KEYS[5] and not redis.call('SET', KEYS[5], ARGV[17], 'NX', 'PX', ARGV[10]) then
  if redis.call('GET', KEYS[5]) ~= ARGV[17] then return {-4} end
end
-- These two never change: written once more they change nothing, and none of them is new.
if redis.call('HSET', KEYS[4], 'order', ARGV[2], 'deadline_ms', ARGV[6]) == 0 then return {1, node, '', 1} end
if ARGV[18] then redis.call('HSET', KEYS[4], unpack(ARGV, 18)) end
redis.call('PEXPIRE', KEYS[4], ARGV[10])
local renew, slack = ARGV[11] ~= '', ARGV[16]
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[5])
if active == 0 then redis.call('ZADD', KEYS[2], '9007199254740991', '') end
if (active == 0 or renew) and redis.call('PTTL', KEYS[2]) < ARGV[7] + slack then
  redis.call('PEXPIRE', KEYS[2], ARGV[7] + slack)
end
-- At its end: what is put before a list moves all that stands there. A few more than its bound are no matter.
local listed = redis.call('RPUSH', KEYS[3], ARGV[8])
if listed > ARGV[9] * 1.1 then redis.call('LTRIM', KEYS[3], -ARGV[9], -1) end
if listed == 1 or renew and redis.call('PTTL', KEYS[3]) < ARGV[10] + slack then
  redis.call('PEXPIRE', KEYS[3], ARGV[10] + slack)
end
local receivers = 0
if node ~= '' and ARGV[4] ~= '' then
  local told = ARGV[3] ~= '' and ARGV[3] or ARGV[2]
  receivers = redis.call('PUBLISH', ARGV[4] .. node, 'inbox\n' .. ARGV[1] .. '\nsession\n' .. told)
end
return {1, node, ARGV[5], receivers}
