package history

// Small has blocks and segments be small, so that a test sees many.
func Small(events int, segment int64) func(*Options) {
	return func(o *Options) { o.blockEvents, o.segmentSize = events, segment }
}

// Narrow has the buffer be small.
func Narrow(events int) func(*Options) { return func(o *Options) { o.bufferEvents = events } }
