/** Whether anything is elected while the disk that all nodes share is kept busy by others: a slow disk is no dead node. */

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TributaryClient } from '../../common/client.ts'
import { connect } from '../../common/client.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { allInSync, createHubNodes } from '../hub-nodes.ts'
import type { BenchContext } from './measure.ts'
import { markdownTable, median, round } from './measure.ts'

const SCRIPT = resolve(import.meta.dirname, '../../main.ts')
const NODES = 3
const PARTITIONS = 12
const TOPIC = 'busy'
const WRITERS = 2
const EVERY_MS = 50
/** Of one run of the bench. */
const RUN_MS = 60_000

/** Writes 16 MiB and syncs, over and over, into a file that it starts anew each time. */
const WRITER = `
  const fs = require('node:fs')
  const bytes = Buffer.alloc(16 << 20, 0x61)
  for (;;) {
    const file = fs.openSync(process.argv[1], 'w')
    for (let at = 0; at < bytes.length; at += 1 << 20) fs.writeSync(file, bytes, at, 1 << 20)
    fs.fsyncSync(file)
    fs.closeSync(file)
  }
`

/** As many minutes as there are runs: acks, and what was elected meanwhile. */
export async function benchHeavyDisk({ directory, runs, write }: BenchContext): Promise<void> {
  const root = join(directory, 'heavy-disk')
  await mkdir(root, { recursive: true })
  const nodes = await createHubNodes(root, SCRIPT, NODES, { isGated: false, isGrown: false })
  await Promise.all(nodes.hubs.map(hub => hub.start()))
  const client = connect({ hub: nodes.urls.join(','), env: nodeEnv() })
  const writers: ChildProcess[] = []
  try {
    await client.topics.create({ name: TOPIC, partitions: PARTITIONS })
    await allInSync(client, NODES)
    const before = await elected(client, nodes.urls)
    for (let n = 0; n < WRITERS; n++)
      writers.push(spawn(process.execPath, ['-e', WRITER, join(root, `w${n}`)], { stdio: 'inherit' }))
    const { acks, errors } = await produceFor(client, runs * RUN_MS)
    const after = await elected(client, nodes.urls)
    const rows = [
      ['acks', String(acks.length)],
      ['errors told to the producer', String(errors)],
      ['ack p50', `${round(median(acks))} ms`],
      ['ack at worst', `${round(acks.reduce((worst, ms) => Math.max(worst, ms), 0))} ms`],
      ['elections of a controller', String(after.controllers - before.controllers)],
      ['elections of partition leaders', String(after.leaders - before.leaders)],
    ]
    write(`${markdownTable([`${runs} min, ${WRITERS} processes that write 16 MiB and sync`, ''], rows)}\n`)
  } finally {
    for (const writer of writers) writer.kill('SIGKILL')
    await Promise.all(writers.map(writer => writer.exitCode ?? once(writer, 'exit')))
    await client.close()
    await Promise.all(nodes.hubs.map(hub => hub.kill()))
    await rm(root, { recursive: true, force: true })
  }
}

/** Elections since the nodes started: each raises an epoch. */
async function elected(
  client: TributaryClient,
  urls: readonly string[],
): Promise<{ controllers: number; leaders: number }> {
  const stood = await Promise.all(urls.map(electionsOf))
  const { partitions } = await client.topics.describe(TOPIC)
  return {
    controllers: stood.reduce((sum, one) => sum + one, 0),
    leaders: partitions.reduce((sum, { leaderEpoch }) => sum + leaderEpoch, 0),
  }
}

async function electionsOf(url: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const line = /^tributary_metadata_elections\S* (\d+)$/m.exec(text)
  if (line?.[1] === undefined) throw new Error(`${url}/metrics does not tell of elections`)
  return Number(line[1])
}

async function produceFor(client: TributaryClient, ms: number): Promise<{ acks: number[]; errors: number }> {
  const acks: number[] = []
  let errors = 0
  const producer = client.producer(TOPIC, { lingerMs: 0 })
  const untilMs = performance.now() + ms
  const send = async (partition: number): Promise<void> => {
    while (performance.now() < untilMs) {
      const sentMs = performance.now()
      try {
        await producer.send({ value: 'x', partition })
        acks.push(performance.now() - sentMs)
      } catch {
        errors++
      }
      await sleep(EVERY_MS)
    }
  }
  await Promise.all(Array.from({ length: PARTITIONS }, (_, partition) => send(partition)))
  await producer.close()
  return { acks, errors }
}
