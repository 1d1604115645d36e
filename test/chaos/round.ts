/** One chaos round: publishers under load while processes are killed and connections cut, then the verdict. */

import { setTimeout as sleep } from 'node:timers/promises'
import type { TributaryClient } from '../../common/client.ts'
import type { Rng } from '../../common/env.ts'
import type { Child } from '../../demo/child.ts'
import { edgeDrained } from '../../demo/edge-lag.ts'
import type { CuttingProxy } from './proxy.ts'
import type { Publisher, PublisherOptions } from './publishers.ts'
import { mqttJsPublisher, packetIdOnePublisher } from './publishers.ts'
import { judge } from './verify.ts'

export interface Stage {
  edge: Child
  mqttProxy: CuttingProxy
  /** Null where the edge reaches the hub directly. */
  uplinkProxy: CuttingProxy | null
  /** Does harm for some seconds, undoes it, and tells what it did. */
  harm(rng: Rng): Promise<string[]>
  client: TributaryClient
  mqttUrl: string
  edgeUrl: string
}

export interface RoundResult {
  round: number
  published: number
  acked: number
  stored: number
  messagesPerSecond: number
  /** What was done to the processes. */
  harm: string[]
  takeOvers: number
  problems: string[]
}

const LOAD_MS = 5_000
const KILLS_PER_ROUND = 2
const MAX_DOWN_MS = 800
const TAKE_OVER_EVERY_MS = 400
/** Acks, the edge's backlog and the reading back must be done so long after the load. */
const SETTLE_MS = 60_000
/** Chance of a cut per ack on MQTT, and per frame on the uplink, where acks are few. */
const MQTT_CUT_CHANCE = 0.001
const UPLINK_CUT_CHANCE = 0.02
/** Of one publisher; 20 of them make 2,000 a second together, with room for the time processes are down. */
const PER_SECOND = 220

/** 20 publishers: QoS 1 and 2, numbered and constant payloads, two that always use packet id 1. */
function createPublishers(round: number, url: string): Publisher[] {
  const make = (index: number): Publisher => {
    const client = `r${round}-c${index}`
    const options: PublisherOptions = {
      client,
      topic: `chaos/r${round}/${client}`,
      url,
      qos: index % 2 === 0 ? 2 : 1,
      constant: index >= 14 && index < 18,
    }
    return index >= 18 ? packetIdOnePublisher(options) : mqttJsPublisher(options)
  }
  return Array.from({ length: 20 }, (_, index) => make(index))
}

export async function runRound(round: number, stage: Stage, rng: Rng): Promise<RoundResult> {
  const publishers = createPublishers(round, stage.mqttUrl)
  const load = new AbortController()
  const giveUp = new AbortController()
  stage.mqttProxy.setChance(MQTT_CUT_CHANCE)
  stage.uplinkProxy?.setChance(UPLINK_CUT_CHANCE)
  const startedMs = performance.now()
  const running = Promise.all(publishers.map(p => p.run(PER_SECOND, load.signal, giveUp.signal)))
  const [harm, takeOvers] = await Promise.all([stage.harm(rng), takeOverAtRandom(publishers, rng)])
  await sleep(Math.max(0, LOAD_MS - (performance.now() - startedMs)))
  load.abort()
  stage.mqttProxy.setChance(0)
  stage.uplinkProxy?.setChance(0)
  const published = publishers.reduce((sum, p) => sum + p.result().count, 0)
  const loadSeconds = (performance.now() - startedMs) / 1000
  const settle = setTimeout(() => giveUp.abort(), SETTLE_MS)
  await running
  const unacked = publishers.reduce((sum, p) => sum + p.result().unacked.size, 0)
  const problems = giveUp.signal.aborted
    ? [`${unacked} messages had no ack ${SETTLE_MS} ms after the load`]
    : []
  await edgeDrained(stage.edgeUrl, giveUp.signal)
  if (giveUp.signal.aborted) problems.push('the edge did not drain its backlog')
  clearTimeout(settle)
  const stored = await readBack(stage.client, `chaos-r${round}`)
  for (const publisher of publishers)
    problems.push(...judge(publisher.result(), stored.get(publisher.topic) ?? []))
  return {
    round,
    published,
    acked: published - unacked,
    stored: [...stored.values()].reduce((sum, list) => sum + list.length, 0),
    messagesPerSecond: Math.round(published / loadSeconds),
    harm,
    takeOvers,
    problems,
  }
}

/** Kills edge, hub or both now and then. */
export async function killAtRandom(hub: Child, edge: Child, rng: Rng): Promise<string[]> {
  const done: string[] = []
  for (let i = 0; i < KILLS_PER_ROUND; i++) {
    await sleep(rng.below(LOAD_MS / KILLS_PER_ROUND))
    const choice = rng.below(3)
    const children = choice === 0 ? [edge] : choice === 1 ? [hub] : [hub, edge]
    await Promise.all(children.map(child => child.kill()))
    done.push(children.map(child => child.name).join('+'))
    await sleep(rng.below(MAX_DOWN_MS))
    await Promise.all(children.map(child => child.start()))
  }
  return done
}

async function takeOverAtRandom(publishers: Publisher[], rng: Rng): Promise<number> {
  const deadline = performance.now() + LOAD_MS
  let count = 0
  while (performance.now() < deadline) {
    await sleep(rng.below(2 * TAKE_OVER_EVERY_MS))
    await publishers[rng.below(publishers.length)]?.takeOver()
    count++
  }
  return count
}

/** Message numbers by MQTT topic, in log order. */
async function readBack(client: TributaryClient, topic: string): Promise<Map<string, number[]>> {
  const stored = new Map<string, number[]>()
  for await (const record of client.consume(topic, { from: 'earliest', follow: false })) {
    const key = Buffer.from(record.key ?? []).toString()
    const mqttTopic = key.slice(key.indexOf('/chaos/') + 1)
    const text = Buffer.from(record.value ?? []).toString()
    const list = stored.get(mqttTopic)
    const n = text === 'constant' ? 0 : Number(text)
    if (list === undefined) stored.set(mqttTopic, [n])
    else list.push(n)
  }
  return stored
}
