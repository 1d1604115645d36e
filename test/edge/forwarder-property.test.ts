import fc from 'fast-check'
import { expect, test } from 'vitest'
import { seededRng } from '../rng.ts'
import type { Sim } from './forward-sim.ts'
import { createSim, MODEL_SUMMARY } from './forward-sim.ts'
import type { HubLane } from './model-hub.ts'
import { newHub } from './model-hub.ts'

const TOPICS = ['alpha', 'beta']

/** The lane as the topic of that name has it now. */
function laneNow(sim: Sim, topic: string, lane: number): HubLane | undefined {
  return sim.hub.lanes.get(`${sim.hub.topics.get(topic)}/${lane}`)
}

/** Every record exactly once in the hub's log or a gap, in order. `copies`: a fork or move was declared, so repeats are allowed. */
function check(sim: Sim, copies: boolean): void {
  for (const [key, ids] of sim.disk.records) {
    const [topic = '', lane = '0'] = key.split('/')
    const entries = laneNow(sim, topic, Number(lane))?.entries ?? []
    const position = new Map(ids.map((id, offset) => [id, offset]))
    const runs = new Set(sim.disk.ledgers.get(key)?.runs.map(({ run }) => run))
    const seen = new Set<number>()
    let last = -1
    for (const entry of entries) {
      if (entry.kind === 'run') {
        if (entry.reason === 'fork' || entry.reason === 'moved') last = -1
        continue
      }
      // Records of another directory, or of a future that was rolled back away.
      if (copies && entry.kind === 'record' && !position.has(entry.id)) continue
      if (copies && entry.kind === 'gap' && !runs.has(entry.run)) continue
      const range =
        entry.kind === 'gap' ? [entry.localFrom, entry.localTo] : [position.get(entry.id) ?? -1, 0]
      const from = range[0] ?? 0
      const to = entry.kind === 'gap' ? (range[1] ?? 0) : from + 1
      expect(from, `${key} keeps its order`).toBeGreaterThan(last)
      for (let offset = from; offset < to; offset++) {
        if (!copies) expect(seen.has(offset), `${key} ${offset} stands once`).toBe(false)
        seen.add(offset)
      }
      last = to - 1
    }
    for (let offset = 0; offset < ids.length; offset++) {
      expect(seen.has(offset), `${key} ${offset} of ${ids.length} is stored or declared`).toBe(true)
    }
  }
}

function feed(sim: Sim, pick: number): void {
  sim.append(TOPICS[pick % 2] ?? '', (pick >> 1) % 2, 1 + (pick % 7))
}

const steps = fc.array(
  fc.record({
    act: fc.constantFrom(
      'append',
      'append',
      'append',
      'cut',
      'restart',
      'free',
      'refuse',
      'throttle',
      'large',
      'summary',
      'drop',
    ),
    pick: fc.nat(1000),
    turns: fc.nat(40),
  }),
  { minLength: 5, maxLength: 60 },
)

function play(sim: Sim, act: string, pick: number): void {
  const topic = TOPICS[pick % 2] ?? ''
  const key = `${topic}/${(pick >> 1) % 2}`
  if (act === 'append') feed(sim, pick)
  if (act === 'cut') sim.cut()
  if (act === 'restart') sim.restart()
  if (act === 'refuse') sim.refuseNext(topic)
  if (act === 'throttle') sim.throttle()
  if (act === 'large') sim.append(topic, (pick >> 1) % 2, 1, 'large')
  if (act === 'summary') sim.append(topic, (pick >> 1) % 2, 1 + (pick % 2), 'summary')
  if (act === 'free' && sim.disk.ledgers.has(key)) sim.free(key)
  if (act === 'drop') sim.dropOldest(key, 1 + (pick % 9))
}

test('acked = stored + declared gaps, in order and once, whatever is cut, refused, restarted or dropped', () => {
  fc.assert(
    fc.property(fc.nat(), steps, (seed, script) => {
      const sim = createSim(seededRng(seed))
      for (const { act, pick, turns } of script) {
        play(sim, act, pick)
        for (let turn = 0; turn < turns; turn++) sim.turn()
      }
      sim.settle()
      check(sim, false)
      const forks = sim.alarms.filter(alarm => alarm.kind === 'fork' || alarm.kind === 'hub-rollback')
      expect(forks).toEqual([])
      for (const lane of sim.hub.lanes.values()) {
        for (const entry of lane.entries) {
          if (entry.kind === 'gap' && entry.reason === 'thinned')
            expect(entry.count).toBe(MODEL_SUMMARY.count)
        }
      }
      // What was too large for the hub is a dead letter.
      for (const lane of sim.hub.lanes.values()) {
        for (const entry of lane.entries) {
          if (entry.kind !== 'gap' || entry.reason !== 'refused') continue
          const ids = sim.disk.records.get(`${lane.topic}/${lane.lane}`) ?? []
          for (const id of ids.slice(entry.localFrom, entry.localTo)) expect(sim.dead).toContain(id)
        }
      }
    }),
    { numRuns: 400 },
  )
}, 60_000)

test('a hub restored from an older copy gets again what is kept, and a gap for the rest', () => {
  fc.assert(
    fc.property(fc.nat(), steps, steps, (seed, before, after) => {
      const sim = createSim(seededRng(seed))
      const run = (script: typeof before): void => {
        for (const { act, pick, turns } of script) {
          play(sim, act, pick)
          for (let turn = 0; turn < turns; turn++) sim.turn()
        }
      }
      run(before)
      const old = sim.copyHub()
      run(after)
      feed(sim, seed)
      sim.replaceHub(old)
      sim.settle()
      run(before)
      sim.settle()
      check(sim, false)
    }),
    { numRuns: 300 },
  )
}, 60_000)

test('another cluster gets all that is kept, under runs that say moved', () => {
  fc.assert(
    fc.property(fc.nat(), steps, steps, (seed, before, after) => {
      const sim = createSim(seededRng(seed))
      const calm = (script: typeof before): void => {
        for (const { act, pick, turns } of script) {
          if (act === 'free' || act === 'drop') continue
          play(sim, act, pick)
          for (let turn = 0; turn < turns; turn++) sim.turn()
        }
      }
      calm(before)
      for (let turn = 0; turn < seed % 100; turn++) sim.turn()
      const wasBound = sim.disk.clusterId !== null
      sim.replaceHub(newHub('B'))
      calm(after)
      sim.settle()
      check(sim, false)
      if (wasBound) expect(sim.alarms.some(alarm => alarm.kind === 'moved')).toBe(true)
    }),
    { numRuns: 300 },
  )
}, 60_000)

test('a directory rolled back forks: all it has reaches the hub, copies are declared', () => {
  fc.assert(
    fc.property(fc.nat(), steps, steps, (seed, before, after) => {
      const sim = createSim(seededRng(seed))
      const calm = (script: typeof before): void => {
        for (const { act, pick, turns } of script) {
          if (act === 'drop') continue
          play(sim, act, pick)
          for (let turn = 0; turn < turns; turn++) sim.turn()
        }
      }
      calm(before)
      const old = sim.copyDisk()
      sim.restart()
      calm(after)
      sim.settle()
      const delivered = sim.hub.started > old.session && old.session > 0
      sim.replaceDisk(old)
      feed(sim, seed)
      sim.settle()
      check(sim, true)
      if (delivered) expect(sim.alarms.some(alarm => alarm.kind === 'fork')).toBe(true)
    }),
    { numRuns: 300 },
  )
}, 60_000)

function twoDirectories(parameters: { seed?: number; path?: string; numRuns?: number } = {}): void {
  fc.assert(
    fc.property(
      fc.nat(),
      fc.array(fc.tuple(steps, fc.constantFrom('swap', 'keep', 'copy hub')), { minLength: 2, maxLength: 7 }),
      (seed, rounds) => {
        const sim = createSim(seededRng(seed))
        const run = (script: typeof steps extends fc.Arbitrary<infer S> ? S : never): void => {
          for (const { act, pick, turns } of script) {
            if (act === 'drop') continue
            play(sim, act, pick)
            for (let turn = 0; turn < turns; turn++) sim.turn()
          }
        }
        run(rounds[0]?.[0] ?? [])
        feed(sim, seed)
        for (let turn = 0; turn < 200; turn++) sim.turn()
        // Another directory, and the hub as it was at some time.
        let other = sim.copyDisk()
        let old = sim.copyHub()
        const swap = (): void => {
          const mine = sim.copyDisk()
          sim.replaceDisk(other)
          other = mine
        }
        for (const [script, act] of rounds) {
          if (act === 'swap') swap()
          if (act === 'copy hub') old = sim.copyHub()
          run(script)
        }
        sim.replaceHub(old)
        for (let turns = 0; turns < 3; turns++) {
          // One that has nothing to send thinks that all is well until it is connected.
          feed(sim, seed)
          sim.settle()
          check(sim, true)
          swap()
        }
      },
    ),
    { numRuns: 300, ...parameters },
  )
}

test('two directories of one edge and a hub that went back: each gets all it has to the hub, or says what is gone', () => {
  twoDirectories()
}, 60_000)

test('two directories of one edge and a hub that went back: no ack of one proves anything after many starts of the other', () => {
  // The hub remembered 8 runs, all of the other directory, and had lost what this one had acks for.
  twoDirectories({ seed: 1376373873, path: '87', numRuns: 1 })
}, 60_000)

test('a topic deleted and made again gets a gap for what went to dead letters, other topics nothing of it', () => {
  fc.assert(
    fc.property(fc.nat(), steps, steps, fc.boolean(), (seed, before, after, again) => {
      const sim = createSim(seededRng(seed))
      const calm = (script: typeof before): void => {
        for (const { act, pick, turns } of script) {
          if (act === 'drop' || act === 'free') continue
          play(sim, act, pick)
          for (let turn = 0; turn < turns; turn++) sim.turn()
        }
      }
      calm(before)
      const wasThere = sim.hub.topics.has('alpha')
      sim.deleteTopic('alpha', again)
      calm(after)
      sim.append('alpha', 0, 3)
      sim.settle()
      for (const [key, ids] of sim.disk.records) {
        const [topic = '', lane = '0'] = key.split('/')
        if (topic !== 'alpha') continue
        const reached = new Set(sim.dead)
        for (const hubLane of sim.hub.lanes.values()) {
          if (hubLane.topic !== topic || hubLane.lane !== Number(lane)) continue
          for (const entry of hubLane.entries) {
            if (entry.kind === 'record') reached.add(entry.id)
            if (entry.kind === 'gap' && entry.reason === 'thinned') reached.add(ids[entry.localFrom] ?? '')
          }
        }
        for (const id of ids) expect(reached.has(id), `${id} is stored or a dead letter`).toBe(true)
      }
      sim.disk.records.delete('alpha/0')
      sim.disk.records.delete('alpha/1')
      check(sim, false)
      if (wasThere && !again) expect(sim.dead.length).toBeGreaterThan(0)
    }),
    { numRuns: 300 },
  )
}, 60_000)
