-- wrk's requests: nine lists to one append, users by Zipf's law; prints its figures as JSON
local users = tonumber(os.getenv("LOAD_USERS"))
local items = tonumber(os.getenv("LOAD_ITEMS"))
local run = os.getenv("LOAD_RUN")
local number, sums = 0, {}

function init(args)
  math.randomseed(tonumber(os.getenv("LOAD_SEED")))
  local sum = 0
  for rank = 1, users do
    sum = sum + 1 / rank
    sums[rank] = sum
  end
end

local function user()
  local wanted, low, high = math.random() * sums[users], 1, users
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sums[middle] < wanted then low = middle + 1 else high = middle end
  end
  return low - 1
end

function request()
  number = number + 1
  if math.random() < 0.9 then
    return wrk.format("GET", "/v1/users/" .. user() .. "/recommendations?k=10")
  end
  local body = string.format(
    '{"events":[{"item_id":%d,"event_id":"%s-%d"}]}', math.random(0, items - 1), run, number
  )
  local headers = {["Content-Type"] = "application/json"}
  return wrk.format("POST", "/v1/users/" .. user() .. "/events", headers, body)
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\nJSON {"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"p999_ms":%f,"max_ms":%f,' ..
    '"errors":%d,"socket_errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3,
    e.status, e.connect + e.read + e.write + e.timeout
  ))
end
