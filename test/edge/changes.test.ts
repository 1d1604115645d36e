import { afterEach, expect, test } from 'vitest'
import { encodeHeaders } from '../../common/batch-builder.ts'
import { utf8 } from '../../common/bytes.ts'
import { nodeCodec } from '../../common/compression.ts'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import type { Env } from '../../common/env.ts'
import { TributaryError } from '../../common/errors.ts'
import { KIB, MIB } from '../../common/limits.ts'
import { openDataDir } from '../../common/log/data-dir.ts'
import { createAlarms } from '../../edge/alarms.ts'
import { adopt, applyChange, storedSession } from '../../edge/changes.ts'
import type { Lane } from '../../edge/lane.ts'
import { Store } from '../../edge/store.ts'
import { FakeDisk } from '../fake-disk.ts'
import { liveClock } from '../live-clock.ts'
import { seededRng } from '../rng.ts'

/** What the forwarder asks to be stored, where the disk is full for a while. */

const HEADERS = encodeHeaders([{ key: 'edge', value: utf8('e1') }])
const closing: (() => Promise<void>)[] = []

afterEach(async () => {
  for (const close of closing.splice(0)) await close()
})

async function open(disk: FakeDisk): Promise<Store> {
  const net = { dial: () => Promise.reject(new Error('no hub')) }
  const env: Env = { clock: liveClock, rng: seededRng(7), disk, codec: nodeCodec(), net }
  const storage = { journalBytes: 256 * KIB, commitMs: 0, budgetBytes: 64 * MIB }
  const config = defaultEdgeConfig({ data: '/edge', storage })
  const directory = await openDataDir('/edge', { ...config.storage, reserveBytes: 64 * KIB }, env)
  const store = await Store.open(
    env,
    config,
    directory,
    createAlarms(liveClock.nowMs, () => {}),
  )
  closing.push(async () => {
    await store.close()
    await directory.close()
  })
  return store
}

async function append(store: Store, id: string): Promise<void> {
  const value = utf8(id)
  const record = { topic: 't', lane: 0, key: null, value, timestampMs: 1, headers: HEADERS, headerCount: 1 }
  const failure = await new Promise(resolve => store.append(record, [], resolve))
  expect(failure).toBeUndefined()
}

function laneOf(store: Store): Lane {
  const lane = store.lanes.get('t/0')
  if (lane === undefined) throw new Error('the topic is not open')
  return lane
}

/** The next put of the lanes' state finds the disk full. */
function failNextPut({ state }: Store): void {
  const { put } = state
  state.put = () => {
    state.put = put
    return Promise.reject(new TributaryError('disk_full', 'for now'))
  }
}

test('a session that waits for the disk takes back nothing of what is stored meanwhile', async () => {
  const disk = new FakeDisk({ rng: seededRng(1), capacityBytes: Number.POSITIVE_INFINITY })
  const store = await open(disk)
  await append(store, 'a')
  const lane = laneOf(store)
  store.space.committed(lane, 1)
  failNextPut(store)
  const session = { session: 3, clusterId: 'c' }
  const adopted = adopt(store, session, 'fork')
  await append(store, 'b')
  await append(store, 'c')
  expect(await applyChange(store, lane, { kind: 'lose', from: 1, to: 2, reason: 'damage' })).toBe(true)
  expect(await adopted).toBe(true)
  const { runs, gaps } = structuredClone(lane.ledger)
  expect(runs).toMatchObject([
    { start: 0, end: 1 },
    { start: 1, prev: null, reason: 'fork' },
  ])
  expect(gaps).toMatchObject([{ from: 1, to: 2, reason: 'damage' }])
  for (const close of closing.splice(0)) await close()
  const again = await open(disk)
  expect(storedSession(again)).toEqual(session)
  // Records without a run would never be sent.
  expect(laneOf(again).ledger).toMatchObject({
    runs: runs.map(run => ({ ...run, end: run.end ?? 3 })),
    gaps,
  })
})
