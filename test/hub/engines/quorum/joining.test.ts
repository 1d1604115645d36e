import { pino } from 'pino'
import { expect, test } from 'vitest'
import { whenDecided } from '../../../../hub/engines/cluster/quorum/joining.ts'
import type { PeerIdentity, Peers } from '../../../../hub/engines/cluster/types.ts'
import { liveClock } from '../../../live-clock.ts'

test('members that dial a wiped node are joined, though all it was told of are gone', async () => {
  const linked = new Map<number, PeerIdentity>()
  let changed: Parameters<Peers['onLink']>[0] = () => {}
  const decided = whenDecided({
    clock: liveClock,
    nodeId: 1,
    peers: [1, 2, 3],
    links: {
      identity: nodeId => linked.get(nodeId) ?? null,
      onLink: listener => {
        changed = listener
      },
    },
    log: pino({ level: 'silent' }),
    waiting: () => {},
    stop: new AbortController().signal,
  })
  for (const [nodeId, clusterId] of [
    [4, null],
    [5, 'c'],
  ] as const) {
    linked.set(nodeId, { nodeId, directoryId: `d${nodeId}`, software: 'test', clusterId })
    changed(nodeId, 'up')
  }
  expect(await decided).toEqual({ t: 'join', clusterId: 'c' })
})
