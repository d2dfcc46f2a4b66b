package skifftest

import (
	"bytes"
	"fmt"
	"runtime/pprof"
	"strings"
	"time"
)

// leftover are the stacks of the goroutines that the cluster, or a request to it, has started and that do not end. All
// have been told to; those that nobody waits for may take a moment.
func (c *Cluster) leftover() (stacks string) {
	const limit = 10 * time.Second
	for pause := time.Millisecond; ; pause *= 2 {
		stacks = c.goroutines()
		if stacks == "" || pause > limit {
			return stacks
		}
		time.Sleep(pause)
	}
}

// goroutines are the stacks of those that have the label of the cluster.
func (c *Cluster) goroutines() string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return fmt.Sprintf("no profile of goroutines: %v", err)
	}
	var ours []string
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", label, c.id)) {
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours, "\n\n")
}
