import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Child processes and fsyncs on a busy machine of two cores.
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
