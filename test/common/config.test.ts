import { describe, expect, test } from 'vitest'
import { parseAddress, parseHubUrl, parseHubUrls } from '../../common/address.ts'
import type { ConfigFlag } from '../../common/config.ts'
import { checkConfigFile, environmentKeys, loadEdgeConfig, loadHubConfig } from '../../common/config.ts'
import { defaultEdgeConfig, EDGE_DEFAULTS, topicPolicy } from '../../common/config-edge.ts'
import { defaultHubConfig, HUB_DEFAULTS } from '../../common/config-hub.ts'
import { isTributaryError, messageOf } from '../../common/errors.ts'
import { GIB, KIB, MAX_CONFIG_FILE_BYTES, MIB } from '../../common/limits.ts'
import { nearest } from '../../common/suggest.ts'
import { parseTokens } from '../../common/tokens.ts'
import { formatDuration, formatSize, parseDuration, parseSize } from '../../common/units.ts'
import { selfSigned } from '../self-signed.ts'

interface Given {
  files?: Record<string, string | Uint8Array>
  env?: Record<string, string>
  flags?: ConfigFlag[]
  file?: string
}

function sources({ files = {}, env = {}, flags = [], file }: Given) {
  const readFile = async (path: string): Promise<Uint8Array> => {
    const content = files[path]
    if (content === undefined) throw Object.assign(new Error(`no such file: ${path}`), { code: 'ENOENT' })
    return typeof content === 'string' ? new TextEncoder().encode(content) : content
  }
  return { file, env, flags, readFile }
}

const yaml = (text: string, more: Given = {}) => ({
  files: { '/etc/t/c.yaml': text },
  file: '/etc/t/c.yaml',
  ...more,
})
const edge = (given: Given = {}) => loadEdgeConfig(sources(given))
const hub = (given: Given = {}) => loadHubConfig(sources(given))

async function problem(attempt: Promise<unknown>): Promise<string> {
  try {
    await attempt
  } catch (error) {
    expect(isTributaryError(error, 'config_invalid'), messageOf(error)).toBe(true)
    return messageOf(error)
  }
  throw new Error('expected the config to be refused')
}

describe('defaults', () => {
  test('need neither file nor flags', async () => {
    expect(await edge()).toEqual(EDGE_DEFAULTS)
    expect(await hub()).toEqual(HUB_DEFAULTS)
    expect(await edge(yaml('edge:'))).toEqual(EDGE_DEFAULTS)
  })

  test('can be built upon by code', () => {
    const config = defaultEdgeConfig({ data: 'd', mqtt: { listen: null } })
    expect(config).toEqual({ ...EDGE_DEFAULTS, data: 'd', mqtt: { ...EDGE_DEFAULTS.mqtt, listen: null } })
    expect(defaultHubConfig({ storage: { commitMs: 5 } }).storage).toEqual({
      ...HUB_DEFAULTS.storage,
      commitMs: 5,
    })
  })

  test('of topics come from their own entry, then from *', () => {
    const topics = { '*': { keepAckedMs: 0, priority: 1 }, alarms: { priority: 9 } }
    expect(topicPolicy(topics, 'alarms')).toMatchObject({ priority: 9, keepAckedMs: 0, lanes: 1 })
    expect(topicPolicy(topics, 'other')).toMatchObject({ priority: 1, onFull: 'drop-oldest' })
    expect(topicPolicy(topics, 'constructor')).toMatchObject({ priority: 1 })
  })
})

describe('layers', () => {
  const http = (value: string): ConfigFlag => ({ flag: '--http', path: 'http', value })
  const file = 'hub:\n  http: 127.0.0.1:1\n  storage: { commitMs: 1 }'

  test('flags win over variables, variables over the file, the file over defaults', async () => {
    const env = { TRIBUTARY_HTTP: '127.0.0.1:2', TRIBUTARY_NODE_ID: '2' }
    const flags = [http('127.0.0.1:3')]
    expect(await hub(yaml(file, { env, flags }))).toMatchObject({
      http: '127.0.0.1:3',
      nodeId: 2,
      storage: { commitMs: 1, journalBytes: 64 * MIB },
    })
    expect((await hub(yaml(file, { env }))).http).toBe('127.0.0.1:2')
    expect((await hub(yaml(file))).http).toBe('127.0.0.1:1')
  })

  test('a hub may flush async, by file or variable; an edge has no such choice, and is told why', async () => {
    expect((await hub({})).storage.flush).toBe('commit')
    expect((await hub(yaml('hub: { storage: { flush: async } }'))).storage.flush).toBe('async')
    expect((await hub({ env: { TRIBUTARY_STORAGE_FLUSH: 'async' } })).storage.flush).toBe('async')
    const why = 'storage.flush is unknown; an edge acks nothing before it is synced'
    expect(await problem(edge(yaml('edge: { storage: { flush: async } }')))).toContain(why)
  })

  test('variables name nested keys and carry text', async () => {
    const config = await edge({
      env: {
        TRIBUTARY_MQTT_MAX_PACKET_BYTES: '1MiB',
        TRIBUTARY_UPLINK_DEAD_MS: '2m',
        TRIBUTARY_MQTT_ALLOW_ANONYMOUS: 'true',
        TRIBUTARY_MQTT_LISTEN: '0.0.0.0:1883',
        TRIBUTARY_HTTP: 'off',
        TRIBUTARY_ID: '',
      },
    })
    expect(config.mqtt).toMatchObject({ maxPacketBytes: MIB, allowAnonymous: true, listen: '0.0.0.0:1883' })
    expect(config.uplink.deadMs).toBe(120_000)
    expect(config.http).toBeNull()
    expect(config.id).toBeNull()
  })

  test('every variable stands for one key', () => {
    for (const role of ['edge', 'hub'] as const) {
      const keys = environmentKeys(role)
      expect(new Set(keys.values()).size).toBe(keys.size)
    }
    expect(environmentKeys('edge').get('TRIBUTARY_MQTT_TLS_CERT_FILE')).toBe('mqtt.tls.certFile')
    expect([...environmentKeys('edge').values()]).not.toContain('rules')
  })

  test('variables of the other role and of Kubernetes services are none of ours', async () => {
    const env = {
      TRIBUTARY_MQTT_LISTEN: 'nonsense',
      TRIBUTARY_SERVICE_HOST: '10.0.0.1',
      TRIBUTARY_HUB_PORT: 'tcp://10.0.0.1:7600',
      TRIBUTARY_HUB_PORT_7600_TCP_ADDR: '10.0.0.1',
    }
    expect(await hub({ env })).toEqual(HUB_DEFAULTS)
  })

  test('paths in a file are relative to it, others to the working directory', async () => {
    const files = {
      '/etc/t/c.yaml': 'edge: { data: d, tokenFile: ../token, ca: off }',
      '/etc/token': 'abc\n',
    }
    const config = await edge({ files, file: '/etc/t/c.yaml', flags: [] })
    expect(config).toMatchObject({ data: '/etc/t/d', token: 'abc', caPem: null })
    const flags = [{ flag: '--data', path: 'data', value: './here' }]
    expect((await edge({ files, file: '/etc/t/c.yaml', flags })).data).toBe('./here')
  })

  test('a file may hold both sections', async () => {
    const both = yaml('edge: { id: e1 }\nhub: { nodeId: 7 }')
    expect((await edge(both)).id).toBe('e1')
    expect((await hub(both)).nodeId).toBe(7)
    const checked = await checkConfigFile({ ...sources(both), file: '/etc/t/c.yaml' })
    expect(checked.map(section => section.role)).toEqual(['edge', 'hub'])
    expect(checked[0]?.settings).toMatchObject({ id: 'e1', tokenFile: null })
  })
})

describe('a whole edge', () => {
  test('reads rules, topics, TLS and secrets', async () => {
    const { cert } = selfSigned()
    const config = await edge({
      file: '/c/edge.yaml',
      files: {
        '/c/edge.yaml': `
edge:
  hub: https://hub.example:7600/
  tokenFile: token
  ca: ca.pem
  mqtt:
    listen: off
    tls: { listen: 0.0.0.0:8883, certFile: cert.pem, keyFile: key.pem }
    usersFile: users
  rules:
    - { match: plant/+/temp, topic: 'temp-{1}', key: '{edge}/{2}', eventTime: { path: $.ts, unit: ms } }
    - { match: $SYS/#, drop: true }
    - { match: '#', eventTime: now, contentType: application/json }
  topics:
    '*': { keepAckedMs: 0, thin: { everyMs: 10s } }
    alarms: { lanes: 4, partitionBy: key, onFull: reject, priority: 9, thin: off }
    meters: { thin: off, conflate: { windowMs: 1s } }
  storage: { budgetBytes: 1GiB }
`,
        '/c/token': '# made today\n s3cret \n',
        '/c/ca.pem': cert,
        '/c/cert.pem': '-',
        '/c/key.pem': '-',
        '/c/users': '-',
      },
    })
    expect(config).toMatchObject({
      hub: 'wss://hub.example:7600',
      token: 's3cret',
      caPem: cert,
      mqtt: { listen: null, tls: { listen: '0.0.0.0:8883', certFile: '/c/cert.pem', keyFile: '/c/key.pem' } },
      topics: {
        '*': { thin: { everyMs: 10_000 } },
        alarms: { lanes: 4, partitionBy: 'key', thin: null },
        meters: { thin: null, conflate: { windowMs: 1_000 } },
      },
      storage: { budgetBytes: GIB },
    })
    expect(config.rules).toHaveLength(3)
    expect(config.rules[0]).toEqual({
      match: 'plant/+/temp',
      topic: 'temp-{1}',
      key: '{edge}/{2}',
      eventTime: { path: '$.ts', unit: 'ms' },
    })
  })
})

describe('errors name the key, the value and what is allowed', () => {
  const section = (text: string) => `edge: { ${text} }`
  test.each([
    ['id: a/b', 'id is "a/b"; expected an id of 1 to 128 letters'],
    ['hub: "localhost:7600"', 'hub is "localhost:7600"; expected the URL of a hub, such as ws://'],
    ['hub: ["ws://a:1", "b"]', 'hub is ["ws://a:1","b"]; expected the URL'],
    ['hub: "ws://a:1,"', 'hub is "ws://a:1,"; expected the URL'],
    ['hub: "ws://h:1/path"', 'hub is "ws://h:1/path"; expected the URL'],
    ['http: 7601', 'http is 7601; expected an address to listen on, host:port'],
    ['http: "127.0.0.1:70000"', 'http is "127.0.0.1:70000"; expected an address'],
    ['logLevel: loud', 'logLevel is "loud"; expected one of trace, debug, info'],
    ['mqtt: 5', 'mqtt is 5; expected a section of settings'],
    ['mqtt: { maxPacketBytes: 12x }', 'mqtt.maxPacketBytes is "12x"; expected a size from 1KiB to 256MiB'],
    ['mqtt: { maxPacketBytes: 1 }', 'mqtt.maxPacketBytes is 1; expected a size'],
    ['mqtt: { maxPacketBytes: 0.3KiB }', 'expected a size'],
    ['mqtt: { maxConnections: many }', 'mqtt.maxConnections is "many"; expected a whole number from 1'],
    ['mqtt: { allowAnonymous: 1 }', 'mqtt.allowAnonymous is 1; expected true or false'],
    ['mqtt: { connectTimeoutMs: 5 sec }', 'expected a duration from 1ms to 1d'],
    ['mqtt: { tls: { listen: "127.0.0.1:1" } }', 'mqtt.tls.certFile is missing; expected a path'],
    ['mqtt: { listen: "0.0.0.0:1883" }', 'unless mqtt.usersFile (--mqtt-users) names users'],
    ['http: "0.0.0.0:80"', 'http is "0.0.0.0:80"; expected a loopback address, unless httpAllowAnonymous'],
    ['dta: x', 'dta is unknown; did you mean data?'],
    ['maxPacketBytes: 5', 'maxPacketBytes is unknown; did you mean mqtt.maxPacketBytes?'],
    ['mqtt: { zzz: 5 }', 'mqtt.zzz is unknown; known here: listen, tls'],
    ['rules: { match: a }', 'rules is {"match":"a"}; expected a list'],
    ['rules: [{ topic: x }]', 'rules.0.match is missing; expected an MQTT topic filter'],
    ['rules: [{ match: a/#/b }]', 'rules.0.match is "a/#/b"; expected an MQTT topic filter'],
    ['rules: [{ match: a+ }]', 'expected an MQTT topic filter'],
    ['rules: [{ match: a, topic: "{3}x y" }]', 'rules.0.topic is "{3}x y"; expected a name of at most 249'],
    [
      'rules: [{ match: a, key: "{oops}" }]',
      'rules.0.key is "{oops}"; expected a template of text and {edge}',
    ],
    ['rules: [{ match: a, eventTime: { path: ts, unit: s } }]', 'eventTime'],
    ['rules: [{ match: a, eventTime: later }]', 'rules.0.eventTime is "later"; expected now, or { path'],
    ['rules: [{ match: a, drop: false }]', 'rules.0.drop is false; expected true'],
    ['rules: [{ match: a, drop: true, key: k }]', 'rules.0.drop is true; expected no other key'],
    ['rules: [{ match: a, tpic: x }]', 'rules.0.tpic is unknown; did you mean topic?'],
    ['topics: { "a b": {} }', 'topics.a b is {}; expected the name of a hub topic'],
    ['topics: { t: { onFull: panic } }', 'topics.t.onFull is "panic"; expected one of reject, drop-oldest'],
    ['topics: { t: { onful: reject } }', 'topics.t.onful is unknown; did you mean onFull?'],
    ['topics: { t: { lanes: 4 } }', 'topics.t.lanes is 4; expected 1, unless partitionBy is key'],
    [
      'topics: { t: { conflate: { windowMs: 5ms } } }',
      'topics.t.conflate.windowMs is "5ms"; expected a duration',
    ],
    ['topics: { t: { conflate: 5s } }', 'topics.t.conflate is "5s"; expected a section of settings'],
    ['topics: { t: { thin: {} } }', 'topics.t.thin.everyMs is missing; expected a duration from 100ms to 1d'],
    ['topics: { t: { thin: { evryMs: 1s } } }', 'topics.t.thin.evryMs is unknown; did you mean everyMs?'],
    [
      'topics: { t: { thin: { everyMs: 1s }, conflate: { windowMs: 1s } } }',
      'topics.t.thin is {"everyMs":"1s"}; expected off, or conflate: off beside it',
    ],
    [
      'topics: { "*": { thin: { everyMs: 1s } }, t: { conflate: { windowMs: 1s } } }',
      'topics.t.conflate is {"windowMs":"1s"}; expected off, or thin: off beside it',
    ],
    ['uplink: { deadMs: 1s }', 'uplink.deadMs is "1s"; expected more than uplink.heartbeatMs'],
    ['uplink: { backoffMaxMs: 10ms }', 'expected at least uplink.backoffMinMs'],
    ['uplink: { windowBytes: 64KiB }', 'expected at least uplink.maxBatchBytes'],
  ])('%s', async (text, expected) => {
    const message = await problem(edge(yaml(section(text))))
    expect(message).toContain(expected)
    expect(message).toMatch(/^\/etc\/t\/c\.yaml: /)
  })

  test.each([
    ['hub: { http: "0.0.0.0:7600" }', 'unless tokenFile (--token-file) names tokens'],
    ['hub: { limits: { maxFrameBytes: 1MiB } }', 'at least twice storage.maxRecordBytes'],
    ['hub: { storage: { journalBytes: 8MiB } }', 'more than limits.maxFrameBytes'],
    ['hub: { storage: { segmentBytes: 64KiB } }', 'expected at least storage.maxRecordBytes'],
    ['hub: { storage: { producerIdExpirationMs: 1s } }', 'expected a duration from 1m to 36500d'],
    ['hub: { storage: { flush: never } }', 'storage.flush is "never"; expected one of commit, async'],
    ['hub: { limits: { deadMs: 1 } }', 'expected more than limits.heartbeatMs'],
    ['hub: ws://h:1', 'hub is "ws://h:1"; expected a section of settings; the hub that an edge talks to'],
    [
      'hub: {}\nmqtt: {}',
      'unknown key mqtt: the top level has the sections edge: and hub:; put it under edge:',
    ],
    ['hbu: {}', 'unknown key hbu: the top level has the sections edge: and hub:; did you mean hub?'],
    ['edge: {}', 'has no section hub: for this command'],
    ['', 'has no section edge: or hub:'],
    ['- 1', 'has no section edge: or hub:'],
    ['hub:\n  data: [', '/etc/t/c.yaml:2:'],
    ['hub:\n  data: a\n  data: b', 'not valid YAML'],
  ])('%s', async (text, expected) => {
    expect(await problem(hub(yaml(text)))).toContain(expected)
  })

  test('all at once, each with where it comes from', async () => {
    const message = await problem(
      edge(
        yaml('edge: { dta: 1, mqtt: { maxInflight: 0 } }', {
          env: { TRIBUTARY_STORAGE_MAX_TOPICS: 'x', TRIBUTARY_HTP: '1' },
          flags: [{ flag: '--hub', path: 'hub', value: 'nowhere' }],
        }),
      ),
    )
    const lines = message.split('\n')
    expect(lines).toHaveLength(5)
    expect(lines).toContain('environment: TRIBUTARY_HTP is unknown; did you mean TRIBUTARY_HTTP?')
    expect(message).toContain('--hub: hub is "nowhere"; expected')
    expect(message).toContain('TRIBUTARY_STORAGE_MAX_TOPICS: storage.maxTopics is "x"; expected')
  })

  test('files that are missing, too large or no text', async () => {
    expect(await problem(edge({ file: 'nope.yaml' }))).toBe("nope.yaml can't be read (ENOENT)")
    const large = { 'c.yaml': new Uint8Array(MAX_CONFIG_FILE_BYTES + 1) }
    expect(await problem(edge({ file: 'c.yaml', files: large }))).toContain('more than the')
    expect(await problem(edge({ file: 'c', files: { c: Uint8Array.of(0xff) } }))).toContain(
      'is not UTF-8 text',
    )
    const tls = 'mqtt: { tls: { listen: "127.0.0.1:1", certFile: c, keyFile: k } }'
    const missing = await problem(edge(yaml(`edge: { tokenFile: t, ca: a, ${tls} }`)))
    for (const key of ['tokenFile', 'ca', 'mqtt.tls.certFile', 'mqtt.tls.keyFile']) {
      expect(missing).toContain(`${key}: /etc/t/`)
    }
  })

  test('check reports the errors of both sections', async () => {
    const both = sources(yaml('edge: { x: 1 }\nhub: { y: 2 }'))
    const message = await problem(checkConfigFile({ ...both, file: '/etc/t/c.yaml' }))
    expect(message).toContain('x is unknown')
    expect(message).toContain('y is unknown')
  })

  test('tokens', () => {
    expect(parseTokens('f', 'abc\r\n# comment\n\nDEF-1._~+/==\n')).toEqual(['abc', 'DEF-1._~+/=='])
    expect(() => parseTokens('f', '\n#x\n')).toThrow('f has no token')
    expect(() => parseTokens('f', 'ok\na b')).toThrow('f: token 2 has characters')
  })
})

describe('values', () => {
  test('sizes and durations', () => {
    expect([16, '16', '16B', '16KiB', '1.5MiB', '2 GiB'].map(parseSize)).toEqual([
      16,
      16,
      16,
      16 * KIB,
      1.5 * MIB,
      2 * GIB,
    ])
    expect(['16KB', '-1', '', 'KiB', '1.3B', null, 1.5, '1e3', '99999999TiB'].map(parseSize)).toEqual(
      Array(9).fill(null),
    )
    expect([10, '10ms', '1.5s', '2m', '24h', '7d'].map(parseDuration)).toEqual([
      10, 10, 1_500, 120_000, 86_400_000, 604_800_000,
    ])
    expect(['10 sec', '1w', 'ms'].map(parseDuration)).toEqual([null, null, null])
    expect([0, 1, 1_536, 16 * MIB, GIB].map(formatSize)).toEqual(['0', '1B', '1536B', '16MiB', '1GiB'])
    expect([0, 1, 90_000, 86_400_000].map(formatDuration)).toEqual(['0', '1ms', '90s', '1d'])
  })

  test('addresses', () => {
    expect(parseAddress('127.0.0.1:0')).toEqual({ host: '127.0.0.1', port: 0 })
    expect(parseAddress('[::1]:1883')).toEqual({ host: '::1', port: 1883 })
    expect(['1883', ':1883', 'a:b', 'a:65536', '::1:80', 'a b:1'].map(parseAddress)).toEqual(
      Array(6).fill(null),
    )
    expect(
      ['http://h:1', 'https://h', 'ws://[::1]:2/', 'wss://u@h:1', 'mqtt://h:1', 'h:1'].map(parseHubUrl),
    ).toEqual(['ws://h:1', 'wss://h', 'ws://[::1]:2', null, null, null])
    expect(parseHubUrls('http://a:1, ws://b:2,ws://a:1/')).toEqual(['ws://a:1', 'ws://b:2'])
    expect(['', ',', 'ws://a:1,', 'ws://a:1,nonsense'].map(parseHubUrls)).toEqual([null, null, null, null])
    expect(parseHubUrls(Array.from({ length: 33 }, (_, index) => `ws://h:${index}`).join(','))).toBeNull()
  })

  test('suggestions', () => {
    expect(nearest('lsit', ['list', 'create'])).toBe('list')
    expect(nearest('keepAckdMs', ['keepAckedMs', 'priority'])).toBe('keepAckedMs')
    expect(nearest('zebra', ['list', 'create'])).toBeNull()
  })
})
