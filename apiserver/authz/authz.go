// Package authz decides whether a user may do what a request asks for: members of system:masters everything, others what
// one of the configured authorizers allows. Those are, unless an AuthorizationConfiguration says otherwise, the rules of
// nodes, which may do what their pods need, and RBAC, by which everyone may do what roles bound to them say.
package authz

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// Source is where roles, bindings and pods are read; a *store.Store.
type Source interface {
	Snapshot(ctx context.Context, r *resource.Resource, m store.Match, minRevision int64) ([]*store.Item, int64, error)
	Watch(ctx context.Context, r *resource.Resource, m store.Match, after int64) iter.Seq2[store.Step, error]
}

// Lookup finds the storage version of a kind; nil if it is not served.
type Lookup func(group, plural string) *resource.Resource

// Authorizer asks system:masters, then the configured authorizers in order. The first that allows or denies decides. The
// roles of RBAC can be asked for also if RBAC does not decide: nobody may give away more than they have.
type Authorizer struct {
	*RBAC
	nodes   nodes
	config  Config
	metrics *metrics
	current atomic.Pointer[chain]
	// required are the types, webhooks apart, that the server was started with.
	required []string
	data     []byte // of the file; it belongs to Run
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// Open makes an Authorizer that knows no roles: until Load nobody is bound to any. The error says in kube-apiserver's words
// what is wrong with the configuration.
func Open(c Config) (*Authorizer, error) {
	c = c.withDefaults()
	z := &Authorizer{RBAC: newRBAC(), nodes: nodes{rules: c.NodeRules}, config: c}
	order, data, err := c.order()
	if err != nil {
		return nil, err
	}
	z.metrics = newMetrics(c.Metrics, c.ServerID, c.File != "")
	made, err := z.chain(order)
	if err != nil {
		return nil, fmt.Errorf("invalid authorization config: %w", err)
	}
	z.current.Store(&made)
	z.data, z.required = data, besidesWebhooks(order)
	z.metrics.inForce(data)
	return z, nil
}

// Load reads all roles and bindings. It must return before other methods are
// called from other goroutines; then Run must run for changes to be seen.
func (z *Authorizer) Load(ctx context.Context, source Source, lookup Lookup) error {
	z.nodes.source, z.nodes.lookup = source, lookup
	return z.RBAC.load(ctx, source, lookup)
}

// Authorize implements authorizer.Authorizer. The reason of a refusal is why nobody could tell, or why somebody denies.
func (z *Authorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if IsMaster(a.GetUser()) {
		return authorizer.DecisionAllow, "", nil
	}
	return z.current.Load().Authorize(ctx, a)
}

// RulesFor lists what u may do in a namespace, "" for the whole cluster.
func (z *Authorizer) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return z.current.Load().RulesFor(ctx, u, namespace)
}

// chain is who is asked, in order.
type chain []authority

// authority is one authorizer of a chain.
type authority struct {
	asked
	decisions decisions
}

// asked is what an authorizer must answer.
type asked interface {
	authorizer.Authorizer
	authorizer.RuleResolver
}

// Authorize asks until somebody allows or denies.
func (c chain) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	var problems []error
	var reasons []string
	for _, one := range c {
		decision, reason, err := one.Authorize(ctx, a)
		if decision != authorizer.DecisionNoOpinion {
			one.decisions.count(decision)
			return decision, reason, err
		}
		if err != nil {
			problems = append(problems, err)
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return authorizer.DecisionNoOpinion, strings.Join(reasons, "\n"), utilerrors.NewAggregate(problems)
}

// RulesFor joins what all say.
func (c chain) RulesFor(ctx context.Context, u user.Info, namespace string) (rules []authorizer.ResourceRuleInfo, nonResource []authorizer.NonResourceRuleInfo, incomplete bool, err error) {
	var problems []error
	for _, one := range c {
		more, moreNonResource, partial, err := one.RulesFor(ctx, u, namespace)
		rules, nonResource, incomplete = append(rules, more...), append(nonResource, moreNonResource...), incomplete || partial
		if err != nil {
			problems = append(problems, err)
		}
	}
	return rules, nonResource, incomplete, utilerrors.NewAggregate(problems)
}

// chain makes the authorizers of a configuration.
func (z *Authorizer) chain(order []entry) (chain, error) {
	made := make(chain, 0, len(order))
	for _, e := range order {
		one, err := z.make(e)
		if err != nil {
			return nil, err
		}
		made = append(made, authority{one, z.metrics.decisions(e.Type, e.Name)})
	}
	return made, nil
}

func (z *Authorizer) make(e entry) (asked, error) {
	switch e.Type {
	case typeNode:
		return &z.nodes, nil
	case typeRBAC:
		return z.RBAC, nil
	case typeAlwaysAllow:
		return everything{}, nil
	case typeAlwaysDeny:
		return nothing{}, nil
	}
	return newWebhook(e, z.config.Backoff, z.metrics, z.config.Log)
}

// everything is allowed.
type everything struct{}

func (everything) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

func (everything) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	all := []string{"*"}
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: all, APIGroups: all, Resources: all}},
		[]authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{Verbs: all, NonResourceURLs: all}}, false, nil
}

// nothing is allowed, but those who are asked later may allow it.
type nothing struct{}

func (nothing) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionNoOpinion, "Everything is forbidden.", nil
}

func (nothing) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return nil, nil, false, nil
}

// RulesFor implements authorizer.RuleResolver: what pods need is no list of rules.
func (n *nodes) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, isNode := NodeName(u); isNode {
		return nil, nil, true, errors.New("node authorizer does not support user rule resolution")
	}
	return nil, nil, false, nil
}

// IsMaster reports whether u may do everything.
func IsMaster(u user.Info) bool {
	return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup)
}

// NodeName returns the node that u is, and whether u is a node at all.
func NodeName(u user.Info) (name string, isNode bool) {
	name, ok := strings.CutPrefix(u.GetName(), "system:node:")
	if !ok || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return "", false
	}
	return name, true
}
