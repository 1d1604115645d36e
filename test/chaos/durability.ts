/**
 * kill -9 leaves the page cache, so durability is shown apart: the real edge under strace, one QoS 1 publish at
 * a time; in the trace a commit must have been synced between one PUBACK's write and the next: a write to a descriptor that was
 * opened with O_DSYNC returned whole, which is when its data is as durable as fdatasync makes it (open(2)).
 */

import { spawnSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import mqtt from 'mqtt'
import { createChild, freePorts } from '../../demo/child.ts'

const MESSAGES = 50

/** One line for the log, and problems, none where durability was seen or strace is missing. */
export async function checkDurability(
  directory: string,
  script: string,
): Promise<{ summary: string; problems: string[] }> {
  if (spawnSync('strace', ['-V']).error !== undefined)
    return { summary: 'durability: SKIPPED, strace is not installed', problems: [] }
  const [mqttPort = 0, httpPort = 0] = await freePorts(2)
  const trace = join(directory, 'edge.strace')
  const strace = [
    '-f',
    '-qq',
    '-s',
    '16',
    '-x',
    '-e',
    'trace=openat,pwrite64,write,writev,sendto,sendmsg',
    '-o',
    trace,
  ]
  const edge = createChild({
    name: 'edge under strace',
    wrapper: ['strace', ...strace],
    script,
    args: [
      'edge',
      '--data',
      join(directory, 'strace-edge'),
      '--hub',
      'ws://127.0.0.1:9',
      '--mqtt',
      `127.0.0.1:${mqttPort}`,
      '--http',
      `127.0.0.1:${httpPort}`,
    ],
    readyUrl: `http://127.0.0.1:${httpPort}/healthz`,
    readyTimeoutMs: 60_000,
  })
  await edge.start()
  const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${mqttPort}`, { protocolVersion: 4 })
  for (let n = 0; n < MESSAGES; n++) await client.publishAsync('strace/a', String(n), { qos: 1 })
  await client.endAsync()
  await edge.stop(10_000)
  return judgeTrace(await readFile(trace, 'utf8'))
}

/** A line of the trace, `12 pwrite64(21, ...) = 4096`; a call that others interrupted is in two, told together by its process. */
const LINE = /^(\d+) +(.*)$/
const UNFINISHED = ' <unfinished ...>'
const RESUMED = /^<\.\.\. \w+ resumed>/
const OPENED = /^openat\([^"]*"[^"]*"(?:\.\.\.)?, ([A-Z_|]+).* = (\d+)$/
const WRITTEN = /^pwrite64\((\d+), .*, (\d+), \d+\) += (\d+)$/

/** True where the call, whole and returned, made a commit durable. `durable` are the descriptors opened with O_DSYNC so far. */
function isSync(call: string, durable: Set<string>): boolean {
  const [, flags, opened] = OPENED.exec(call) ?? []
  if (flags !== undefined && opened !== undefined) {
    if (flags.split('|').includes('O_DSYNC')) durable.add(opened)
    else durable.delete(opened)
  }
  const [, target, wanted, written] = WRITTEN.exec(call) ?? []
  return target !== undefined && durable.has(target) && wanted === written
}

/** Reads the trace: PUBACKs are 4-byte writes of 40 02, each of which must follow a sync of its own. */
export function judgeTrace(trace: string): { summary: string; problems: string[] } {
  const durable = new Set<string>()
  const unfinished = new Map<string, string>()
  let synced = false
  let pubacks = 0
  const problems: string[] = []
  for (const line of trace.split('\n')) {
    const [, pid = '', said = ''] = LINE.exec(line) ?? []
    if (said.includes('"\\x40\\x02') && !/^pwrite64|^<\.\.\./.test(said)) {
      pubacks++
      if (!synced) problems.push(`PUBACK ${pubacks} was written before its commit was synced: ${line}`)
      synced = false
    } else if (said.endsWith(UNFINISHED)) {
      unfinished.set(pid, said.slice(0, -UNFINISHED.length))
    } else {
      const call = RESUMED.test(said) ? said.replace(RESUMED, unfinished.get(pid) ?? '') : said
      if (isSync(call, durable)) synced = true
    }
  }
  if (pubacks !== MESSAGES) problems.push(`${pubacks} PUBACK writes seen in the trace, ${MESSAGES} expected`)
  return { summary: `durability: ${pubacks} PUBACKs, each written after its commit was synced`, problems }
}
