import fc from 'fast-check'
import { expect, it } from 'vitest'
import { must } from '../../../common/assert.ts'
import { checkImage, checkSnapshot } from './invariants.ts'
import type { Model } from './model.ts'
import { createModel } from './model.ts'

/** Random histories of nodes, leaders and operators; see model.ts for what is checked with every entry. */

const NODES = 5
const TOPICS = ['t', 'u', 'v']

type Step = (model: Model, a: number, b: number, c: number) => void

function pick<T>(items: readonly T[], at: number): T {
  return must(items[at % items.length], 'nothing to pick from')
}

const nodeOf = (a: number): number => (a % NODES) + 1
const topicOf = (a: number): string => pick(TOPICS, a)
const processOf = (model: Model, a: number): number => a % Math.max(1, model.processes().length)

/** Those that come more often in a cluster's life stand here more often. */
const STEPS: readonly Step[] = [
  (model, a, b) => model.restart(nodeOf(a), b % 4),
  (model, a) => model.restart(nodeOf(a), 0),
  (model, a) => model.kill(processOf(model, a)),
  (model, a) => model.unfence(nodeOf(a)),
  (model, a) => model.unfence(nodeOf(a)),
  (model, a) => model.unfence(nodeOf(a)),
  (model, _a, b) => model.fence(b & -b & 0x3e),
  // Out of step for a moment, and back with another directory or without what it had.
  (model, a) => {
    model.fence(1 << nodeOf(a))
    model.unfence(nodeOf(a))
  },
  (model, a, b) => {
    model.fence(1 << nodeOf(a))
    model.restart(nodeOf(a), 2 + (b % 2))
    model.unfence(nodeOf(a))
  },
  (model, _a, b) => model.fence(b),
  (model, a) => model.leave(processOf(model, a)),
  (model, a, b) => {
    const process = model.processes()[processOf(model, a)]
    if (process !== undefined) model.catchUp(process, b)
  },
  model => {
    for (const process of model.processes()) model.catchUp(process, model.log.length)
  },
  model => {
    for (const process of model.processes()) model.catchUp(process, model.log.length)
  },
  ...Array.from({ length: 5 }, (): Step => (model, a) => model.write(a)),
  ...Array.from({ length: 3 }, (): Step => (model, a, _b, c) => model.propose(a, c)),
  ...Array.from({ length: 2 }, (): Step => (model, a) => model.propose(a, -1)),
  ...Array.from(
    { length: 4 },
    (): Step => (model, a, _b, c) => model.deliver(a % Math.max(1, model.proposals()), c % 3 === 0),
  ),
  (model, a, b, c) => {
    model.call('create-topic', {
      name: topicOf(a),
      partitions: (b % 3) + 1,
      ...(c % 3 === 0 ? { replication: (c % 5) + 1 } : {}),
    })
  },
  (model, a, b) => {
    if (b % 3 === 0) model.call('delete-topic', { name: topicOf(a) })
  },
  (model, a, b) => {
    model.call('alter-topic', { name: topicOf(a), change: { partitions: (b % 4) + 1 } })
  },
  (model, a, b, c) => {
    const config = c % 2 === 0 ? { uncleanLeaderElection: b % 4 === 0 } : { minInsyncReplicas: (b % 3) + 1 }
    model.call('alter-topic', { name: topicOf(a), change: { config } })
  },
  (model, a, b) => {
    model.call('drain-node', { nodeId: nodeOf(a), draining: b % 2 === 0 })
  },
  (model, a) => {
    model.call('remove-node', { nodeId: nodeOf(a) })
  },
  (model, a, b) => {
    model.call('reassign-topic', { name: topicOf(a), replication: b % 2 === 0 ? null : (b % 4) + 1 })
  },
  model => {
    model.call('balance', {})
  },
  (model, a, b) => {
    if (b % 8 === 0) model.call('elect-unclean', { name: topicOf(a), partition: b % 3 })
  },
  model => {
    model.tidyOnce()
  },
  model => {
    model.tidyOnce()
  },
  (model, _a, b) => model.pass(b * 10_000),
]

const byte = fc.integer({ min: 0, max: 63 })
const steps = fc.array(fc.tuple(fc.nat(STEPS.length - 1), byte, byte, byte), {
  minLength: 20,
  maxLength: 150,
})

/** Three nodes that are up, and a topic. */
function begin(): Model {
  const model = createModel()
  for (const nodeId of [1, 2, 3]) {
    model.restart(nodeId, 0)
    model.unfence(nodeId)
  }
  model.call('create-topic', { name: 't', partitions: 2 })
  for (const process of model.processes()) model.catchUp(process, 100)
  return model
}

/** What is so when all nodes are back and all is done. */
function checkHealed(model: Model): void {
  const { image, settings } = model
  const staying = image.nodes().filter(node => !node.draining)
  for (const state of image.partitionStates()) {
    if (state.isr.length === 0) continue
    const topic = must(image.topicById(state.topicId), 'a partition without topic')
    const wanted = Math.min(topic.replication ?? settings.defaultReplication, staying.length)
    const name = `${topic.name}-${state.partition} of ${JSON.stringify(state)}`
    expect(state.leader, `${name} is led by the preferred leader`).toBe(state.replicas[0])
    expect(state.isr, `${name} is in sync`).toEqual(state.replicas)
    expect([state.adding, state.removing], `${name} is at rest`).toEqual([[], []])
    expect(state.replicas.length, `${name} has enough replicas`).toBeGreaterThanOrEqual(wanted)
  }
  for (const node of image.nodes()) {
    const held = [...image.partitionsOn(node.nodeId)].filter(({ isr }) => isr.length > 0)
    if (node.draining && staying.length > 0) expect(held, `node ${node.nodeId} is empty`).toEqual([])
  }
}

it('no history of nodes, leaders and operators breaks the rules', () => {
  const total: Record<string, number> = {}
  fc.assert(
    fc.property(steps, plan => {
      const model = begin()
      for (const [step, a, b, c] of plan) pick(STEPS, step)(model, a, b, c)
      checkSnapshot(model.image)
      model.heal()
      checkHealed(model)
      checkImage(model.image)
      checkSnapshot(model.image)
      for (const process of model.processes()) {
        model.catchUp(process, model.log.length)
        expect(process.view.records()).toEqual(model.image.records())
      }
      for (const [name, count] of Object.entries(model.counts)) total[name] = (total[name] ?? 0) + count
    }),
    // So many that the rarest, an unclean election, does not fail to come by chance.
    { numRuns: Number(process.env.RUNS ?? 600) },
  )
  // A history in which nothing happens proves nothing.
  for (const count of Object.values(total)) expect(count).toBeGreaterThan(0)
  if (process.env.RUNS) console.log(total)
})
