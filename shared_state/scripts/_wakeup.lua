-- Tell nodes over their channels. `nodes` are node ids, each in line breaks ; an empty `prefix` of the channels
-- says that the caller publishes.
local function wake(nodes, prefix, text)
  if prefix == '' then return end
  for node in string.gmatch(nodes, '[^\n]+') do redis.call('PUBLISH', prefix .. node, text) end
end
