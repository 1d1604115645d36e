import { describe, expect, test } from 'vitest'
import type { ConfigFlag } from '../../common/config.ts'
import { loadHubConfig } from '../../common/config.ts'
import { CLUSTER_DEFAULTS, parsePeer, peerListenOf } from '../../common/config-cluster.ts'
import type { HubConfig } from '../../common/config-hub.ts'
import { messageOf } from '../../common/errors.ts'

const files: Record<string, string> = {
  '/etc/t/secret': 'of-the-nodes\n',
  '/etc/t/c.yaml': `hub:
  nodeId: 2
  cluster:
    peers: ["1@10.0.0.1:7700", "2@10.0.0.2:7700"]
    peerSecretFile: secret
    rack: west
    sessionTimeoutMs: 4s
`,
}

function load(given: { flags?: Record<string, string>; file?: string; env?: Record<string, string> }) {
  const flags: ConfigFlag[] = Object.entries(given.flags ?? {}).map(([path, value]) => {
    return { flag: `--${path}`, path, value }
  })
  return loadHubConfig({
    file: given.file,
    env: given.env ?? {},
    flags,
    readFile: async path => {
      const content = files[path]
      if (content === undefined) throw Object.assign(new Error('no such file'), { code: 'ENOENT' })
      return new TextEncoder().encode(content)
    },
  })
}

async function refusal(given: Parameters<typeof load>[0]): Promise<string> {
  const outcome: HubConfig | string = await load(given).catch((error: unknown) => messageOf(error))
  return typeof outcome === 'string' ? outcome : 'taken'
}

describe('the cluster section', () => {
  test('is a cluster of one unless something is said', async () => {
    expect((await load({})).cluster).toEqual(CLUSTER_DEFAULTS)
  })

  test('comes from a file, with the secret read', async () => {
    const { nodeId, cluster } = await load({ file: '/etc/t/c.yaml' })
    expect(nodeId).toBe(2)
    expect(cluster).toMatchObject({
      peers: ['1@10.0.0.1:7700', '2@10.0.0.2:7700'],
      peerSecret: 'of-the-nodes',
      rack: 'west',
      sessionTimeoutMs: 4_000,
    })
    expect(peerListenOf(nodeId, cluster)).toBe('10.0.0.2:7700')
  })

  test('comes from flags and variables, peers with commas between', async () => {
    const peers = '1@127.0.0.1:7701, 2@127.0.0.1:7702'
    const { cluster } = await load({
      flags: { 'cluster.peers': peers },
      env: { TRIBUTARY_CLUSTER_PEER_LISTEN: '127.0.0.1:7709' },
    })
    expect(cluster.peers).toEqual(['1@127.0.0.1:7701', '2@127.0.0.1:7702'])
    expect(peerListenOf(1, cluster)).toBe('127.0.0.1:7709')
  })

  test.each([
    ['no id', { 'cluster.peers': '127.0.0.1:7701' }, 'cluster.peers'],
    ['an id twice', { 'cluster.peers': '1@127.0.0.1:1,1@127.0.0.1:2' }, 'each id once'],
    ['nowhere to be found at', { 'cluster.peers': '2@127.0.0.1:7702' }, '1@HOST:PORT'],
    ['a network without a proof', { 'cluster.peerListen': '10.0.0.1:7700' }, '--peer-secret-file'],
    ['what nobody can dial', { 'cluster.peerListen': '0.0.0.0:7700' }, '1@HOST:PORT'],
    ['the same among the peers', { 'cluster.peers': '1@0.0.0.0:7700' }, 'can dial'],
    ['sessions shorter than two heartbeats', { 'cluster.sessionTimeoutMs': '500' }, 'heartbeatMs'],
    ['a secret that is not there', { 'cluster.peerSecretFile': '/nowhere' }, 'cluster.peerSecretFile'],
  ])('refuses %s', async (_, flags, expected) => {
    expect(await refusal({ flags })).toContain(expected)
  })
})

test.each([
  ['1@h:1', { nodeId: 1, address: 'h:1' }],
  ['12@[::1]:7700', { nodeId: 12, address: '[::1]:7700' }],
  ['0@h:1', null],
  ['2147483648@h:1', null],
  ['@h:1', null],
  ['1@h', null],
  ['x@h:1', null],
])('parsePeer %s', (text, expected) => {
  expect(parsePeer(text)).toEqual(expected)
})
