/** Peers measured in the same run, where Debian's packages of them are installed. */

import type { ChildProcess } from 'node:child_process'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePorts } from '../../demo/child.ts'

export interface Server {
  name: string
  port: number
  pid: number
  stop(): Promise<void>
}

const READY_TIMEOUT_MS = 10_000

/** mosquitto without persistence; null where it is not installed. */
export async function startMosquitto(directory: string): Promise<Server | null> {
  const [port = 0] = await freePorts(1)
  const config = join(directory, 'mosquitto.conf')
  const settings = [
    'persistence false',
    'allow_anonymous true',
    'max_inflight_messages 0',
    'max_queued_messages 0',
    'log_type none',
    'set_tcp_nodelay true',
  ]
  await writeFile(config, `listener ${port} 127.0.0.1\n${settings.join('\n')}\n`)
  return await startServer('mosquitto', 'mosquitto', ['-c', config], port)
}

/** nats-server's MQTT with file JetStream, whose 2.9 acks before it syncs, which it does every two minutes; null where it is not installed. */
export async function startNats(directory: string): Promise<Server | null> {
  const [port = 0, clientPort = 0] = await freePorts(2)
  const config = join(directory, `nats-${port}.conf`)
  const store = join(directory, `nats-${port}`)
  await writeFile(
    config,
    `server_name: bench\nlisten: 127.0.0.1:${clientPort}\njetstream { store_dir: "${store}" }\nmqtt { listen: "127.0.0.1:${port}", max_ack_pending: 65535 }\n`,
  )
  return await startServer('nats-server', 'nats-server', ['-c', config], port)
}

async function startServer(
  name: string,
  program: string,
  args: string[],
  port: number,
): Promise<Server | null> {
  if (spawnSync(program, ['-h']).error !== undefined) return null
  const child: ChildProcess = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  child.stderr?.on('data', data => {
    stderr = (stderr + String(data)).slice(-4_096)
  })
  const deadline = performance.now() + READY_TIMEOUT_MS
  while (!(await accepts(port))) {
    if (child.exitCode !== null || performance.now() > deadline)
      throw new Error(`${name} did not start: ${stderr}`)
    await sleep(50)
  }
  return {
    name,
    port,
    pid: child.pid ?? 0,
    stop: async () => {
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
    },
  }
}

async function accepts(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
