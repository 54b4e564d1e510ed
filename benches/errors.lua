-- Of every twenty requests one that the backend cannot answer (503) and one for a host that nobody knows (404).
local good, overloaded, unknown
local count = 0

function init()
  good = wrk.format("GET", "/1k")
  overloaded = wrk.format("GET", "/503")
  local headers = {}
  for name, value in pairs(wrk.headers) do headers[name] = value end
  headers["Host"] = "nobody." .. wrk.headers["Host"]:match("%.(.*)")
  unknown = wrk.format("GET", "/1k", headers)
end

function request()
  count = count + 1
  if count % 20 == 0 then return unknown end
  if count % 20 == 10 then return overloaded end
  return good
end
