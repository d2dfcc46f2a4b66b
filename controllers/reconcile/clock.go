package reconcile

import (
	"time"

	"k8s.io/utils/clock"
)

// restfulClock is the clock of a queue. Its tickers never tick: the only one of a queue looks every ten seconds for keys
// whose time has come, which a timer of the queue tells anyway.
type restfulClock struct{ clock.RealClock }

var _ clock.WithTicker = restfulClock{}

// NewTicker implements clock.WithTicker.
func (restfulClock) NewTicker(time.Duration) clock.Ticker { return noTicker{} }

type noTicker struct{}

// C implements clock.Ticker.
func (noTicker) C() <-chan time.Time { return nil }

// Stop implements clock.Ticker.
func (noTicker) Stop() {}
