/** TCP and TLS listeners of the MQTT broker. */

import type { Server, Socket } from 'node:net'
import { createServer } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import type { Address } from '../../common/address.ts'
import { formatAddress, isLoopback, parseAddress } from '../../common/address.ts'
import type { EdgeMqttConfig } from '../../common/config-edge.ts'
import type { Disk } from '../../common/env.ts'
import { messageOf, systemErrorCode, TributaryError } from '../../common/errors.ts'
import type { Logger } from './logger.ts'

/** Finds peers that vanished without a FIN and clients without MQTT keepalive. */
const TCP_KEEPALIVE_MS = 60_000
/** Connections the kernel holds while we are busy: a fleet reconnects at once. */
const BACKLOG = 1_024
/** TLS handshakes under way beside the connections that are through. */
const MAX_HANDSHAKES = 1_000

export interface Listener {
  address: Address
  close(): Promise<void>
}

export interface ListenOptions {
  config: EdgeMqttConfig
  disk: Disk
  log: Logger
  accept(socket: Socket): void
}

/** Refuses to let anyone in from beyond this machine without credentials; throws `config_invalid`. */
export function checkExposure(config: EdgeMqttConfig): void {
  if (config.usersFile !== null || config.allowAnonymous) return
  for (const listen of [config.listen, config.tls?.listen ?? null]) {
    if (listen === null || isLoopback(addressOf(listen).host)) continue
    throw new TributaryError(
      'config_invalid',
      `MQTT would listen on ${listen} for anyone: give --mqtt-users FILE, or --allow-anonymous if that is meant`,
    )
  }
}

/** Listens as configured; `port_in_use` names the flag that changes the port. */
export async function listen(
  options: ListenOptions,
): Promise<{ tcp: Listener | null; tls: Listener | null }> {
  const { config } = options
  const tcp = config.listen === null ? null : await openTcp(options, config.listen)
  try {
    return { tcp, tls: config.tls === null ? null : await openTls(options, config.tls) }
  } catch (error) {
    await tcp?.close()
    throw error
  }
}

async function openTcp(options: ListenOptions, address: string): Promise<Listener> {
  const server = createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: TCP_KEEPALIVE_MS })
  server.on('connection', options.accept)
  return open(server, address, '--mqtt', options.log)
}

async function openTls(options: ListenOptions, tls: NonNullable<EdgeMqttConfig['tls']>): Promise<Listener> {
  const [cert, key] = await Promise.all([
    readPem(options.disk, 'mqtt.tls.certFile', tls.certFile),
    readPem(options.disk, 'mqtt.tls.keyFile', tls.keyFile),
  ])
  const server = tlsServer(options, cert, key)
  server.on('secureConnection', options.accept)
  server.on('tlsClientError', (error, socket) => {
    options.log.info({ remote: socket.remoteAddress, err: error.message }, 'TLS handshake failed')
  })
  // What is still in its handshake has no guard yet.
  server.maxConnections = options.config.maxConnections + MAX_HANDSHAKES
  return open(server, tls.listen, 'mqtt.tls.listen', options.log)
}

function tlsServer({ config }: ListenOptions, cert: Buffer, key: Buffer) {
  try {
    return createTlsServer({
      cert,
      key,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: TCP_KEEPALIVE_MS,
      handshakeTimeout: config.connectTimeoutMs,
    })
  } catch (error) {
    throw new TributaryError(
      'config_invalid',
      `mqtt.tls: certificate and key can't be used: ${messageOf(error)}`,
      { cause: error },
    )
  }
}

async function readPem(disk: Disk, setting: string, file: string): Promise<Buffer> {
  try {
    return Buffer.from(await disk.readFile(file))
  } catch (error) {
    throw new TributaryError('config_invalid', `${setting}: ${file} can't be read: ${messageOf(error)}`, {
      cause: error,
    })
  }
}

function addressOf(listen: string): Address {
  const address = parseAddress(listen)
  if (address !== null) return address
  throw new TributaryError('config_invalid', `mqtt listen address ${listen} is not host:port`)
}

async function open(server: Server, listenAt: string, flag: string, log: Logger): Promise<Listener> {
  const wanted = addressOf(listenAt)
  await new Promise<void>((resolve, reject) => {
    server.once('error', error => reject(listenError(error, wanted, flag)))
    server.listen({ ...wanted, backlog: BACKLOG }, resolve)
  })
  // Out of file descriptors, for one; the listener goes on.
  server.on('error', error => log.warn({ err: error.message }, 'an MQTT connection could not be accepted'))
  const bound = server.address()
  const port = typeof bound === 'object' && bound !== null ? bound.port : wanted.port
  return {
    address: { host: wanted.host, port },
    close: () => new Promise(resolve => server.close(() => resolve())),
  }
}

function listenError(error: Error, address: Address, flag: string): TributaryError {
  const code = systemErrorCode(error)
  if (code === 'EADDRINUSE') {
    const message = `port ${address.port} for MQTT is in use; choose another with ${flag} ${address.host}:PORT`
    return new TributaryError('port_in_use', message, { cause: error })
  }
  const message = `MQTT can't listen on ${formatAddress(address)} (${code ?? messageOf(error)}); change it with ${flag}`
  return new TributaryError('config_invalid', message, { cause: error })
}
