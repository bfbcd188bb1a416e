-- Store a new session and put its task into the inbox of its device; wake the node that holds the device's socket.
-- Safe to repeat: the session is known by its id, which nobody else uses.
-- What need not be asked is not: each command that a script calls costs Redis as much as one that a client sends.
-- KEYS  1 registration   2 inbox   3 active sessions   4 the client's newest sessions   5 session
--       6 its task's name (only where one server holds all keys; in a Cluster it is in another slot, and claimed before)
-- ARGV  1 client id   2 order   3 message, if it is not `task\n` and the order ('' = it is)   4 bound of the inbox: where
--       nothing is under way one more may wait   5 life of the inbox, ms   6 channel prefix ('' = the caller publishes)
--       7 session id   8 its deadline, ms   9 life of the set of active sessions, ms   10 entry for the newest sessions
--       11 their bound   12 life of the session, and of the newest, ms   13 '1' = also for a client that nobody knows
--       14 bound of the active sessions   15 now, ms: those whose deadline is over do not count
--       16 generation that the caller takes the client to be in ('' = it does not matter)   17 features likewise
--       18 '1' = lives are to be renewed; else only what is new gets one, and the caller renewed them lately
--       19 how much longer lives are made   20 claim of the task's name ('' = it has been claimed)
--       21.. field, value, ... of the session, beside its order and its deadline (as a rule none)
-- reply {1, node id ('' = nobody holds the client now), entry id ('' = it was started before), receivers};
--       {0} not registered; {-1} the inbox is full; {-2} too many active sessions; {-3} the client is not what the caller
--       takes it to be; {-4} another claim has the name
local there = redis.call('HMGET', KEYS[1], 'node_id', 'generation', 'features')
local node = there[1] or ''
if not there[2] and ARGV[13] ~= '1' then return {0} end
-- Where the set is not empty, the member that keeps it (shared_state/keys.py) counts, too.
local active = redis.call('ZCOUNT', KEYS[3], ARGV[15], '+inf')
local changed = ARGV[16] ~= '' and (there[2] ~= ARGV[16] or there[3] ~= ARGV[17])
local refused = changed and -3 or active > tonumber(ARGV[14]) and -2
  or active > 1 and redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[4]) and -1
if refused then
  if redis.call('EXISTS', KEYS[5]) == 1 then return {1, node, '', 1} end
  return {refused}
end
if KEYS[6] and not redis.call('SET', KEYS[6], ARGV[20], 'NX', 'PX', ARGV[12]) then
  if redis.call('GET', KEYS[6]) ~= ARGV[20] then return {-4} end
end
-- These two never change: written once more they change nothing, and none of them is new.
if redis.call('HSET', KEYS[5], 'order', ARGV[2], 'deadline_ms', ARGV[8]) == 0 then return {1, node, '', 1} end
if ARGV[21] then redis.call('HSET', KEYS[5], unpack(ARGV, 21)) end
redis.call('PEXPIRE', KEYS[5], ARGV[12])
local renew, slack = ARGV[18] == '1', tonumber(ARGV[19])
local message = ARGV[3] ~= '' and ARGV[3] or 'task\n' .. ARGV[2]
local id = redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'm', message)
if not id or renew then
  id = id or redis.call('XADD', KEYS[2], '*', 'm', message)
  if redis.call('PTTL', KEYS[2]) < ARGV[5] + slack then redis.call('PEXPIRE', KEYS[2], ARGV[5] + slack) end
end
redis.call('ZADD', KEYS[3], ARGV[8], ARGV[7])
if active == 0 then redis.call('ZADD', KEYS[3], '+inf', '') end
if (active == 0 or renew) and redis.call('PTTL', KEYS[3]) < ARGV[9] + slack then
  redis.call('PEXPIRE', KEYS[3], ARGV[9] + slack)
end
local listed = redis.call('LPUSH', KEYS[4], ARGV[10])
if listed > tonumber(ARGV[11]) then redis.call('LTRIM', KEYS[4], 0, ARGV[11] - 1) end
if listed == 1 or renew and redis.call('PTTL', KEYS[4]) < ARGV[12] + slack then
  redis.call('PEXPIRE', KEYS[4], ARGV[12] + slack)
end
local receivers = 0
if node ~= '' and ARGV[6] ~= '' then
  receivers = redis.call('PUBLISH', ARGV[6] .. node, 'inbox\n' .. ARGV[1] .. '\n' .. id .. '\n' .. message)
end
return {1, node, id, receivers}
