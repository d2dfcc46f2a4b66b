package fairness

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	runtimeschema "k8s.io/apimachinery/pkg/runtime/schema"
)

// debugPath is where Register puts the pages.
const debugPath = "/debug/api_priority_and_fairness/"

// Register adds pages about levels, queues and requests to a mux. They have the rows and columns of kube-apiserver's.
func (f *Controller) Register(mux *http.ServeMux) {
	for name, page := range map[string]func(*http.Request) [][]string{
		"dump_priority_levels": func(*http.Request) [][]string { return f.levelRows() },
		"dump_queues":          func(*http.Request) [][]string { return f.queueRows() },
		"dump_requests": func(r *http.Request) [][]string {
			return f.requestRows(r.URL.Query().Get("includeRequestDetails") != "")
		},
	} {
		mux.HandleFunc(debugPath+name, func(w http.ResponseWriter, r *http.Request) {
			rows := page(r)
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			out := tabwriter.NewWriter(w, 8, 0, 1, ' ', 0)
			for _, row := range rows {
				fmt.Fprintln(out, strings.Join(row, ",\t"))
			}
			out.Flush() // an error is the client's leaving
		})
	}
}

// each calls visit for every level, which is locked.
func (f *Controller) each(visit func(l *level)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.sorted() {
		l.mu.Lock()
		visit(l)
		l.mu.Unlock()
	}
}

func (f *Controller) levelRows() [][]string {
	rows := [][]string{{"PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests", "DispatchedRequests",
		"RejectedRequests", "TimedoutRequests", "CancelledRequests"}}
	f.each(func(l *level) {
		active := 0
		for _, q := range l.queues {
			active += min(1, len(q.waiting))
		}
		rows = append(rows, append([]string{l.name, strconv.Itoa(active), strconv.FormatBool(l.idle()), strconv.FormatBool(l.quiescing)},
			numbers(l.waiting, l.executing, l.counts.dispatched, l.counts.rejected, l.counts.timedOut, l.counts.cancelled)...))
	})
	return rows
}

func numbers(all ...int) []string {
	var texts []string
	for _, n := range all {
		texts = append(texts, strconv.Itoa(n))
	}
	return texts
}

func (f *Controller) queueRows() [][]string {
	rows := [][]string{{"PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR", "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum"}}
	f.each(func(l *level) {
		for i, q := range l.queues {
			seats := q.length() - q.inUse
			clock, work := fmt.Sprintf("%.8fss", q.clock), fmt.Sprintf("%.8fss", float64(seats)*expected)
			rows = append(rows, append(append([]string{l.name}, numbers(i, len(q.waiting), q.running, q.inUse)...), clock, strconv.Itoa(seats), strconv.Itoa(seats), work))
		}
	})
	return rows
}

func (f *Controller) requestRows(details bool) [][]string {
	head := []string{"PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime", "InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime"}
	if details {
		head = append(head, "UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource")
	}
	rows := [][]string{head}
	f.each(func(l *level) {
		for i, q := range l.queues {
			for n, t := range q.waiting {
				rows = append(rows, t.row(i, n, details))
			}
		}
		var running [][]string
		for t := range l.running {
			running = append(running, t.row(slices.Index(l.queues, t.queue), -1, details))
		}
		slices.SortFunc(running, func(a, b []string) int { return cmp.Compare(a[5], b[5]) })
		rows = append(rows, running...)
	})
	return rows
}

// row is that of a request in a queue, or of one that is served: its index is -1.
func (t *ticket) row(queue, index int, details bool) []string {
	when := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	row := append([]string{t.level.name, t.schema.name}, numbers(queue, index)...)
	row = append(row, t.flow, when(t.arrived), strconv.Itoa(t.seats), "0", "0s", when(t.started))
	if !details {
		return row
	}
	r := t.request
	return append(row, r.GetUser().GetName(), r.GetVerb(), r.GetPath(), r.GetNamespace(), r.GetName(),
		runtimeschema.GroupVersion{Group: r.GetAPIGroup(), Version: r.GetAPIVersion()}.String(), r.GetResource(), r.GetSubresource())
}
