package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/robustness/history"
)

// Objects have a colour, in their data and as a label, by which watches select.
const (
	colorKey = "color"
	red      = "red"
	blue     = "blue"
)

// client is one of those who write and read.
type client struct {
	*run
	id      int
	api     *api
	random  *rand.Rand
	known   map[string]history.Object // what it saw last of each object
	seen    []int64                   // revisions, the newest last
	refused string                    // why the last request had no answer
	failed  int                       // how many writes had none since one had
}

// pageSize is small, so that lists have several pages of few objects.
const pageSize = 2

// step does one operation.
func (c *client) step(ctx context.Context, n int) {
	key := c.key(c.random.IntN(c.Keys))
	value := fmt.Sprintf("%d-%d", c.id, n)
	color := red
	if c.random.IntN(2) == 0 {
		color = blue
	}
	switch at := c.random.IntN(100); {
	case at < 15:
		c.write(ctx, history.Create, http.MethodPost, key, c.content(color, value), 0)
	case at < 30:
		c.get(ctx, key)
	case at < 45:
		c.write(ctx, history.Update, http.MethodPut, key, c.content(color, value), c.known[key].Revision)
	case at < 53:
		c.write(ctx, history.Update, http.MethodPut, key, c.content(color, value), 0)
	case at < 70:
		patch := map[string]string{fmt.Sprint("p", c.id): value}
		if c.random.IntN(3) == 0 {
			patch[colorKey] = color
		}
		c.write(ctx, history.Patch, http.MethodPatch, key, patch, 0)
	case at < 76:
		c.delete(ctx, key, 0)
	case at < 82:
		c.delete(ctx, key, c.known[key].Revision)
	case at < 90:
		c.list(ctx, history.Newest, 0, c.random.IntN(2)*pageSize)
	case at < 95:
		c.list(ctx, history.NotBefore, c.past(), 0)
	default:
		c.list(ctx, history.Exactly, c.past(), c.random.IntN(2)*pageSize)
	}
}

// pause waits the longer the more writes in a row were not answered: of many
// writes that may have happened nobody could tell the order.
func (c *client) pause(ctx context.Context) {
	if c.failed == 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(10+c.random.IntN(40)) * time.Millisecond << min(c.failed, 5)):
	}
}

func (c *client) key(i int) string { return fmt.Sprintf("object-%d", i) }

// content is what a write sends. Few are large, so that values do not all fit
// where small ones do.
func (c *client) content(color, value string) map[string]string {
	content := map[string]string{colorKey: color, "value": value}
	if c.random.IntN(20) == 0 {
		content["large"] = strings.Repeat("x", 1+c.random.IntN(30_000))
	}
	return content
}

// past is one of the revisions seen lately.
func (c *client) past() int64 {
	if len(c.seen) == 0 {
		return 0
	}
	return c.seen[len(c.seen)-1-c.random.IntN(min(len(c.seen), 20))]
}

// put makes an object be there with a content of its own, whether it is there
// or not.
func (c *client) put(ctx context.Context, key, color, value string) *history.Operation {
	content := map[string]string{colorKey: color, "value": value}
	o := c.write(ctx, history.Update, http.MethodPut, key, content, 0)
	if o == nil || o.Outcome != history.NotFound {
		return o
	}
	return c.write(ctx, history.Create, http.MethodPost, key, content, 0)
}

// begin is an operation that is about to be asked for.
func (c *client) begin(verb history.Verb, key string) *history.Operation {
	return &history.Operation{Client: c.id, Verb: verb, Key: key, Call: c.history.Now()}
}

// write creates, updates or patches.
func (c *client) write(ctx context.Context, verb history.Verb, method, key string, content map[string]string, expected int64) *history.Operation {
	meta := wireMeta{Name: key}
	if color, ok := content[colorKey]; ok {
		meta.Labels = map[string]string{colorKey: color}
	}
	if expected > 0 {
		meta.ResourceVersion = strconv.FormatInt(expected, 10)
	}
	name, media := key, "application/json"
	switch verb {
	case history.Create:
		name = ""
	case history.Patch:
		media = "application/merge-patch+json"
	}
	o := c.begin(verb, key)
	o.Sent, o.Expected = history.NewContent(content), expected
	a, err := c.api.request(ctx, method, name, nil, media, wireObject{Kind: "ConfigMap", Version: "v1", Metadata: meta, Data: content})
	return c.end(o, a, err)
}

func (c *client) get(ctx context.Context, key string) *history.Operation {
	o := c.begin(history.Get, key)
	a, err := c.api.request(ctx, http.MethodGet, key, nil, "", nil)
	return c.end(o, a, err)
}

func (c *client) delete(ctx context.Context, key string, expected int64) *history.Operation {
	o := c.begin(history.Delete, key)
	o.Expected = expected
	options := map[string]any{"kind": "DeleteOptions", "apiVersion": "v1"}
	if expected > 0 {
		options["preconditions"] = map[string]string{"resourceVersion": strconv.FormatInt(expected, 10)}
	}
	a, err := c.api.request(ctx, http.MethodDelete, key, nil, "application/json", options)
	return c.end(o, a, err)
}

// end records what became of an operation; nil if it certainly did not happen.
func (c *client) end(o *history.Operation, a *answer, err error) *history.Operation {
	o.Return = c.history.Now()
	if err != nil {
		return c.unanswered(o, err)
	}
	if a.code == http.StatusTooManyRequests {
		c.refused = string(a.body)
		return nil
	}
	outcome, w, err := a.outcome()
	if err != nil {
		c.history.Fail("%v: %v", o, err)
	}
	o.Outcome = outcome
	if outcome != history.Unknown && o.Verb != history.Get {
		c.failed = 0
	}
	switch {
	case outcome == history.Unknown:
		return c.unanswered(o, fmt.Errorf("%d %s", a.code, w.Message))
	case outcome != history.Done:
	case o.Verb == history.Delete:
		o.Object.UID = w.Details.UID
	default:
		if o.Object, err = w.object(); err != nil {
			c.history.Fail("%v: %v", o, err)
		}
		c.know(o.Key, o.Object)
	}
	c.history.Add(o)
	return o
}

// unanswered records an operation that may have happened. Where nothing goes
// wrong every request has an answer.
func (c *client) unanswered(o *history.Operation, err error) *history.Operation {
	c.refused = err.Error()
	c.failed++
	if len(c.Faults) == 0 && !errors.Is(err, context.Canceled) {
		c.history.Fail("%v: no answer: %v", o, err)
	}
	if errors.Is(err, errNotSent) {
		return nil
	}
	o.Outcome, o.Return = history.Unknown, history.Never
	c.history.Add(o)
	return o
}

func (c *client) know(key string, o history.Object) {
	c.known[key] = o
	c.seen = append(c.seen, o.Revision)
}

// list reads all objects, in pages if limit is not 0.
func (c *client) list(ctx context.Context, f history.Freshness, asked int64, limit int) *history.Operation {
	if asked == 0 {
		f = history.Newest
	}
	o := c.begin(history.List, "")
	o.Freshness, o.Asked, o.Objects = f, asked, make(map[string]history.Object)
	query := listQuery(f, asked, limit)
	for {
		a, err := c.api.request(ctx, http.MethodGet, "", query, "", nil)
		if err != nil || a.code != http.StatusOK {
			return c.endList(o, a, err)
		}
		w, err := decode(a.body)
		if err == nil {
			err = addPage(o, w)
		}
		if err != nil {
			c.history.Fail("%v: %v", o, err)
			return nil
		}
		if w.Metadata.Continue == "" {
			break
		}
		query = url.Values{"limit": {strconv.Itoa(limit)}, "continue": {w.Metadata.Continue}}
	}
	o.Return, o.Outcome = c.history.Now(), history.Done
	c.seen = append(c.seen, o.Revision)
	for key, object := range o.Objects {
		c.known[key] = object
	}
	c.history.Add(o)
	return o
}

// endList records a list that was not answered with all its pages.
func (c *client) endList(o *history.Operation, a *answer, err error) *history.Operation {
	o = c.end(o, a, err)
	if o != nil && o.Outcome == history.Expired && !c.Forgets {
		c.history.Fail("%v: revision %d is not kept", o, o.Asked)
	}
	return o
}

func listQuery(f history.Freshness, asked int64, limit int) url.Values {
	query := url.Values{}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	if f == history.Newest {
		return query
	}
	query.Set("resourceVersion", strconv.FormatInt(asked, 10))
	query.Set("resourceVersionMatch", map[history.Freshness]string{history.Exactly: "Exact", history.NotBefore: "NotOlderThan"}[f])
	return query
}

// addPage adds a page to a list. All pages are of one revision.
func addPage(o *history.Operation, w wireObject) error {
	revision, err := strconv.ParseInt(w.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		return err
	}
	if o.Revision != 0 && o.Revision != revision {
		return fmt.Errorf("one page is of revision %d, the next of %d", o.Revision, revision)
	}
	o.Revision = revision
	for _, item := range w.Items {
		object, err := item.object()
		if err != nil {
			return err
		}
		if _, twice := o.Objects[item.Metadata.Name]; twice {
			return fmt.Errorf("%s is listed twice", item.Metadata.Name)
		}
		o.Objects[item.Metadata.Name] = object
	}
	return nil
}
