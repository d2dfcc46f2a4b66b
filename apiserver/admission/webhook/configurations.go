package webhook

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
	"github.com/skiff-k8s/skiff/apiserver/expression"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// configurations are the webhooks of one kind of configuration.
type configurations struct {
	plural string
	now    atomic.Pointer[listed]
	mu     sync.Mutex // held to list anew
	known  map[types.UID]*configuration
}

// listed are the webhooks as they were at a revision, or a little later.
type listed struct {
	revision int64
	hooks    []*hook
}

// configuration is one revision of an object, with what was made of it.
type configuration struct {
	revision string
	hooks    []*hook
}

// hook is a webhook, ready to be asked. It does not change.
type hook struct {
	admissionregistrationv1.MutatingWebhook // validating webhooks have all but the reinvocation
	configuration, id                       string
	phase                                   string // of match conditions, as metrics call it
	selectors                               matching.Selectors
	selectorErr                             error
	conditions                              []condition
	client                                  *client
}

type condition struct {
	*expression.Condition
	err error // of compilation
}

// list are the webhooks of all configurations, in the order of the names of these.
func (c *configurations) list(ctx context.Context, w *Webhooks) ([]*hook, error) {
	row := w.cluster.Resource(admissionregistrationv1.GroupName, c.plural)
	if row == nil {
		return nil, nil
	}
	revision, err := w.config.Changed(ctx, row)
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", c.plural, err)
	}
	if now := c.now.Load(); now != nil && now.revision == revision {
		return now.hooks, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now.Load(); now != nil && now.revision == revision {
		return now.hooks, nil
	}
	objects, err := w.cluster.List(ctx, row, "")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", c.plural, err)
	}
	hooks := c.compile(objects, w.connect)
	c.now.Store(&listed{revision, hooks})
	return hooks, nil
}

// compile makes webhooks of configurations. Clients are carried over from one revision of a configuration to the next, so
// that connections are.
func (c *configurations) compile(objects []resource.Object, connect func(admissionregistrationv1.WebhookClientConfig) *client) []*hook {
	var hooks []*hook
	known := make(map[types.UID]*configuration, len(objects))
	for _, obj := range objects {
		made := c.known[obj.GetUID()]
		if made == nil || made.revision != obj.GetResourceVersion() {
			made = compile(obj, made, connect)
		}
		known[obj.GetUID()] = made
		hooks = append(hooks, made.hooks...)
	}
	c.drop(known)
	c.known = known
	return hooks
}

// drop closes connections of webhooks that are not in now.
func (c *configurations) drop(now map[types.UID]*configuration) {
	used := make(map[*client]bool)
	for _, made := range now {
		for _, h := range made.hooks {
			used[h.client] = true
		}
	}
	for _, made := range c.known {
		for _, h := range made.hooks {
			if !used[h.client] {
				h.client.close()
			}
		}
	}
}

func compile(obj resource.Object, before *configuration, connect func(admissionregistrationv1.WebhookClientConfig) *client) *configuration {
	made := &configuration{revision: obj.GetResourceVersion()}
	phase := "validate"
	if _, ok := obj.(*admissionregistrationv1.MutatingWebhookConfiguration); ok {
		phase = "admit"
	}
	for i, w := range webhooks(obj) {
		h := &hook{MutatingWebhook: w, phase: phase, configuration: obj.GetName(), id: fmt.Sprintf("%s/%s/%d", obj.GetName(), w.Name, i)}
		h.selectors, h.selectorErr = matching.ParseSelectors(w.NamespaceSelector, w.ObjectSelector)
		for _, c := range w.MatchConditions {
			compiled, err := expression.Compile(strings.TrimSpace(c.Expression), true)
			h.conditions = append(h.conditions, condition{compiled, err})
		}
		if h.client = before.clientFor(w.ClientConfig); h.client == nil {
			h.client = connect(w.ClientConfig)
		}
		made.hooks = append(made.hooks, h)
	}
	return made
}

// clientFor is the client that an earlier revision had for the same place, or nil.
func (c *configuration) clientFor(config admissionregistrationv1.WebhookClientConfig) *client {
	if c == nil {
		return nil
	}
	for _, h := range c.hooks {
		if h.client.same(config) {
			return h.client
		}
	}
	return nil
}

func webhooks(obj resource.Object) []admissionregistrationv1.MutatingWebhook {
	if c, ok := obj.(*admissionregistrationv1.MutatingWebhookConfiguration); ok {
		return c.Webhooks
	}
	c, ok := obj.(*admissionregistrationv1.ValidatingWebhookConfiguration)
	if !ok {
		return nil
	}
	var list []admissionregistrationv1.MutatingWebhook
	for _, w := range c.Webhooks {
		list = append(list, admissionregistrationv1.MutatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		})
	}
	return list
}

func (h *hook) ignoresFailures() bool {
	return ptr.Deref(h.FailurePolicy, admissionregistrationv1.Fail) == admissionregistrationv1.Ignore
}

func (h *hook) timeout() time.Duration {
	return time.Duration(ptr.Deref(h.TimeoutSeconds, 10)) * time.Second
}
