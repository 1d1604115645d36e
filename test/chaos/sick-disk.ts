/**
 * The real processes on disks that fail: a synced write that returns EIO, injected by strace, ends them with a word and exit code 1;
 * a filesystem that is full, a small tmpfs, refuses and goes on once there is room. Each is skipped, saying so, where the machine can't.
 */

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import mqtt from 'mqtt'
import { createChild, freePorts } from '../../demo/child.ts'

/** Synced writes of each thread that work before the first that fails: enough to start and take some records. */
const GOOD_WRITES = 20
const MAX_PUBLISHES = 500
const TMPFS_BYTES = 48 * 1024 * 1024

interface Outcome {
  summary: string
  problems: string[]
}

async function edgeArgs(data: string): Promise<{ args: string[]; mqttUrl: string; httpUrl: string }> {
  const [mqttPort = 0, httpPort = 0] = await freePorts(2)
  const listen = ['--mqtt', `127.0.0.1:${mqttPort}`, '--http', `127.0.0.1:${httpPort}`]
  return {
    args: ['edge', '--data', data, '--hub', 'ws://127.0.0.1:9', ...listen, '--log-level', 'warn'],
    mqttUrl: `mqtt://127.0.0.1:${mqttPort}`,
    httpUrl: `http://127.0.0.1:${httpPort}`,
  }
}

/**
 * An edge whose writes to the journal, which is opened with O_DSYNC, fail from some point on as they do where the disk does not take
 * what is synced: what was acked before is on the disk, nothing is acked after, and it exits 1.
 */
export async function checkFailingSync(directory: string, script: string): Promise<Outcome> {
  const data = join(directory, 'eio-edge')
  const { args, mqttUrl, httpUrl } = await edgeArgs(data)
  const inject = [
    '-f',
    '-qq',
    '-P',
    join(data, 'journal-0'),
    '-e',
    'trace=pwrite64,pwritev',
    '-e',
    `inject=pwrite64,pwritev:error=EIO:when=${GOOD_WRITES}+`,
  ]
  const probe = spawnSync('strace', [...inject, '-o', '/dev/null', 'true'])
  if (probe.error !== undefined || probe.status !== 0)
    return { summary: 'failing sync: SKIPPED, strace is not installed or may not trace', problems: [] }
  // Once before, so that none of the writes counted are those that make the journal.
  const maker = createChild({
    name: 'edge that makes the directory',
    script,
    args,
    readyUrl: `${httpUrl}/healthz`,
    readyTimeoutMs: 60_000,
  })
  await maker.start()
  await maker.stop(20_000)
  const trace = join(directory, 'eio.strace')
  const child = spawn('strace', [...inject, '-o', trace, process.execPath, script, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const closed = once(child, 'close')
  await untilAnswers(`${httpUrl}/healthz`)
  const client = await mqtt.connectAsync(mqttUrl, { protocolVersion: 4, reconnectPeriod: 0 })
  const left = new Promise<void>(resolve => client.once('close', () => resolve()))
  let acked = 0
  const publishing = (async () => {
    for (; acked < MAX_PUBLISHES; acked++) await client.publishAsync('n/1', String(acked), { qos: 1 })
  })().catch(() => {})
  await Promise.race([left, publishing])
  await closed
  await client.endAsync(true)
  const problems: string[] = []
  if (acked >= MAX_PUBLISHES) problems.push('failing sync: everything was acked')
  if (child.exitCode !== 1) problems.push(`failing sync: the edge ended with ${child.exitCode}, not 1`)
  if (!/^error: .*EIO.*restart/m.test(stderr)) problems.push(`failing sync: it does not say why:\n${stderr}`)
  return { summary: `failing sync: the edge exited 1 after ${acked} PUBACKs and told why`, problems }
}

async function untilAnswers(url: string): Promise<void> {
  const limitMs = performance.now() + 60_000
  while (performance.now() < limitMs) {
    const answer = await fetch(url).catch(() => null)
    if (answer?.ok) return
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  throw new Error(`${url} does not answer`)
}

/** An edge on a small tmpfs that somebody else fills: no ack while it is full, acks again once it is not, all of them in the log. */
export async function checkFullFilesystem(directory: string, script: string): Promise<Outcome> {
  const mount = join(directory, 'small')
  await mkdir(mount)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${TMPFS_BYTES}`, 'tmpfs', mount])
  if (mounted.status !== 0)
    return { summary: 'full filesystem: SKIPPED, mounting a tmpfs needs root', problems: [] }
  try {
    return await fillAndFree(mount, script)
  } finally {
    spawnSync('umount', [mount])
  }
}

async function fillAndFree(mount: string, script: string): Promise<Outcome> {
  const { args, mqttUrl, httpUrl } = await edgeArgs(join(mount, 'edge'))
  const edge = createChild({
    name: 'edge on a small filesystem',
    script,
    args,
    readyUrl: `${httpUrl}/healthz`,
    readyTimeoutMs: 30_000,
  })
  await edge.start()
  const problems: string[] = []
  let acked = 0
  /** One message a connection, as a device that starts anew each time; false where no ack came. */
  const publish = async (): Promise<boolean> => {
    const client = await mqtt.connectAsync(mqttUrl, { protocolVersion: 4, reconnectPeriod: 0 })
    const left = new Promise<boolean>(resolve => client.once('close', () => resolve(false)))
    const sent = client.publishAsync('n/1', Buffer.alloc(50_000, 'x'), { qos: 1 }).then(
      () => true,
      () => false,
    )
    const isAcked = await Promise.race([sent, left])
    await client.endAsync(true)
    if (isAcked) acked++
    return isAcked
  }
  if (!(await publish())) problems.push('full filesystem: no ack while there is room')
  const filler = join(mount, 'filler')
  await writeFile(filler, Buffer.alloc(TMPFS_BYTES)).catch(() => {})
  let refused = 0
  for (let tries = 0; tries < 100 && refused < 3; tries++) if (!(await publish())) refused++
  if (refused < 3) problems.push('full filesystem: a full disk took everything')
  await rm(filler)
  const limitMs = performance.now() + 15_000
  let again = false
  while (!again && performance.now() < limitMs) again = await publish()
  if (!again) problems.push('full filesystem: no ack though there is room again')
  const code = await edge.stop(10_000)
  if (code !== 0) problems.push(`full filesystem: the edge ended with ${code}:\n${edge.stderr()}`)
  const dump = spawnSync(process.execPath, [script, 'log', 'dump', join(mount, 'edge'), '--records'], {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  const stored = dump.stdout.split('n/1').length - 1
  if (stored < acked) problems.push(`full filesystem: ${acked} acked, ${stored} in the log`)
  return {
    summary: `full filesystem: ${acked} acked and kept, ${refused} refused while it was full`,
    problems,
  }
}
