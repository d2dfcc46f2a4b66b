package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/robustness/history"
)

// watcher is a client that watches, again and again.
type watcher struct {
	*run
	name      string
	api       *api
	random    *rand.Rand
	selection history.Selection
	query     url.Values // that selects
	// restless watchers break off after a few events, and go on from any revision
	// that they have seen.
	restless bool
	streamed bool // what is there comes as events, not by a list
	seen     []int64
}

// watch starts all who watch.
func (r *run) watch(ctx context.Context) *sync.WaitGroup {
	key := (&client{}).key(0)
	kinds := []watcher{
		{name: "steady"},
		{name: "restless", restless: true},
		{name: "streamed", streamed: true},
		{name: "one object", selection: history.Selection{Key: key}, query: url.Values{"fieldSelector": {"metadata.name=" + key}}},
		{name: "red ones", selection: history.Selection{Field: colorKey, Value: red}, query: url.Values{"labelSelector": {colorKey + "=" + red}}},
		{name: "restless red ones", restless: true, selection: history.Selection{Field: colorKey, Value: red}, query: url.Values{"labelSelector": {colorKey + "=" + red}}},
	}
	var all sync.WaitGroup
	for server := range r.apis {
		for i, w := range kinds {
			w.run, w.api, w.random = r, r.api(server), r.random("watcher", server*len(kinds)+i)
			w.name = fmt.Sprintf("%s of server %d", w.name, server)
			all.Go(func() { w.work(ctx) })
		}
		for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
			all.Go(func() { r.inform(ctx, server, media) })
		}
	}
	return &all
}

// work watches until it has seen the last write.
func (w *watcher) work(ctx context.Context) {
	var at *history.Session // the last one
	for ctx.Err() == nil {
		next, err := w.begin(ctx, at)
		if err == nil && !w.settled(next.From) {
			err = w.follow(ctx, next)
		}
		if err == nil || errors.Is(err, errExpired) {
			w.history.AddSession(next) // what it told until then counts
			if at = next; w.settled(at.Through()) {
				return
			}
		}
		switch {
		case errors.Is(err, errExpired):
			at = nil
			if !w.Forgets {
				w.history.Fail("watch %s: %v", w.name, err)
			}
		case err != nil:
			// The server is away.
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(5+w.random.IntN(50)) * time.Millisecond):
			}
		}
	}
	reached := int64(0)
	if at != nil {
		reached = at.Through()
	}
	w.history.Fail("watch %s reached %d, and the last write at %d did not come in time", w.name, reached, w.last.Load())
}

// errExpired: the revision a watch was to begin after is not kept any more.
var errExpired = errors.New("history is gone")

// begin says where the next watch begins: where the last one ended, or where it
// was at some time, or with a list.
func (w *watcher) begin(ctx context.Context, last *history.Session) (*history.Session, error) {
	s := &history.Session{Watcher: w.name, Selection: w.selection}
	switch {
	case last != nil && w.restless && len(w.seen) > 0 && w.random.IntN(2) == 0:
		s.From = w.seen[len(w.seen)-1-w.random.IntN(min(len(w.seen), 50))]
	case last != nil:
		s.From = last.Through()
	case w.streamed:
		s.Objects = make(map[string]history.Object)
	default:
		return s, w.list(ctx, s)
	}
	return s, nil
}

func (w *watcher) list(ctx context.Context, s *history.Session) error {
	a, err := w.api.request(ctx, http.MethodGet, "", w.query, "", nil)
	if err != nil {
		return err
	}
	if a.code != http.StatusOK {
		return fmt.Errorf("list: %d %s", a.code, a.body)
	}
	o := &history.Operation{Objects: make(map[string]history.Object)}
	page, err := decode(a.body)
	if err == nil {
		err = addPage(o, page)
	}
	if err != nil {
		w.history.Fail("list of watch %s: %v", w.name, err)
		return err
	}
	s.From, s.Objects = o.Revision, o.Objects
	return nil
}

// follow reads one watch until it ends. An error says that it could not begin.
func (w *watcher) follow(ctx context.Context, s *history.Session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	query := url.Values{"watch": {"1"}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(3 + w.random.IntN(3))}}
	for k, v := range w.query {
		query[k] = v
	}
	initial := s.Objects != nil && s.From == 0
	if initial {
		query.Set("sendInitialEvents", "true")
		query.Set("resourceVersionMatch", "NotOlderThan")
	} else {
		query.Set("resourceVersion", strconv.FormatInt(s.From, 10))
	}
	response, err := w.api.send(ctx, http.MethodGet, "", query, "", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusGone:
		return errExpired
	default:
		return fmt.Errorf("watch: %s", response.Status)
	}
	most := -1
	if w.restless {
		most = 1 + w.random.IntN(30)
	}
	return w.read(s, json.NewDecoder(response.Body), initial, most)
}

// read takes events until there are most, or none any more.
func (w *watcher) read(s *history.Session, events *json.Decoder, initial bool, most int) error {
	for len(s.Events) != most {
		var frame struct {
			Type   history.EventType
			Object wireObject
		}
		if events.Decode(&frame) != nil {
			if initial {
				return errors.New("ended before all was told that is there")
			}
			return nil // however it ended, what came is good
		}
		if frame.Type == "ERROR" {
			if frame.Object.Code == http.StatusGone {
				return errExpired
			}
			return fmt.Errorf("watch: %s", frame.Object.Message)
		}
		e, err := event(frame.Type, frame.Object)
		if err != nil {
			w.history.Fail("watch %s: %v", w.name, err)
			return err
		}
		e.Time = w.history.Now()
		switch {
		case !initial:
			s.Events = append(s.Events, e)
		case e.Type == history.Bookmark:
			initial = frame.Object.Metadata.Annotations["k8s.io/initial-events-end"] != "true"
			s.From = e.Object.Revision
		default:
			s.Objects[e.Key] = e.Object
		}
		w.seen = append(w.seen, e.Object.Revision)
		if !initial && w.settled(s.Through()) {
			return nil
		}
	}
	return nil
}

func event(kind history.EventType, w wireObject) (history.Event, error) {
	if kind != history.Bookmark {
		object, err := w.object()
		return history.Event{Type: kind, Key: w.Metadata.Name, Object: object}, err
	}
	revision, err := strconv.ParseInt(w.Metadata.ResourceVersion, 10, 64)
	return history.Event{Type: kind, Object: history.Object{Revision: revision}}, err
}
