package history

import "slices"

// Check returns all that cannot have been, empty if the history is explained by
// a server that keeps its promises:
//
//   - writes and reads of each object take effect one after the other, each while
//     it was under way; one that was not answered may have taken effect or not
//   - revisions follow the clock, over all objects
//   - a list shows the state at its revision
//   - a watch tells every change after its beginning once, in order and as what it
//     is; a bookmark comes after all it stands for
//   - an informer ends with what is there
//
// The history must be over: nothing is added to it any more.
func (h *History) Check() []string {
	t := h.newTruth()
	return slices.Concat(h.Failures, t.violations, linear(h.Operations), h.order(), h.lists(t), h.watches(t))
}
