/**
 * kill -9 leaves the page cache, so durability is shown apart: the real edge under strace, one QoS 1 publish at
 * a time; in the trace an fdatasync must have returned 0 between one PUBACK's write and the next.
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
    '-xx',
    '-e',
    'trace=fdatasync,write,writev,sendto,sendmsg',
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

/** Reads the trace: PUBACKs are 4-byte writes of 40 02; an fdatasync counts when it returns 0, also as `<... resumed>`. */
export function judgeTrace(trace: string): { summary: string; problems: string[] } {
  let synced = false
  let pubacks = 0
  const problems: string[] = []
  for (const line of trace.split('\n')) {
    if (line.includes('fdatasync') && /= 0\s*$/.test(line)) synced = true
    if (!line.includes('"\\x40\\x02')) continue
    pubacks++
    if (!synced) problems.push(`PUBACK ${pubacks} was written before an fdatasync returned: ${line}`)
    synced = false
  }
  if (pubacks !== MESSAGES) problems.push(`${pubacks} PUBACK writes seen in the trace, ${MESSAGES} expected`)
  return { summary: `durability: ${pubacks} PUBACKs, each written after an fdatasync returned`, problems }
}
