// Package authz decides whether a user may do what a request asks for: members
// of system:masters everything, nodes what their pods need, everyone what RBAC
// roles bound to them say.
package authz

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
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

// Authorizer asks, in this order, system:masters, the node rules and RBAC. The first that allows wins; nothing denies.
type Authorizer struct {
	*RBAC
	nodes   nodes
	allowed allowances
}

// allowances count what was allowed. Those who cannot tell decide nothing, and nobody denies: there is no other
// decision to count.
type allowances struct{ byNodeRules, byRBAC prometheus.Counter }

func newAllowances(registry prometheus.Registerer) allowances {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_authorization_decisions_total",
		Help: "Total number of terminal decisions made by an authorizer split by authorizer type, name, and decision."}, []string{"type", "name", "decision"})
	if registry != nil {
		registry.MustRegister(decisions)
	}
	return allowances{decisions.WithLabelValues("Node", "node", "allowed"), decisions.WithLabelValues("RBAC", "rbac", "allowed")}
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// New makes an Authorizer that knows no roles: until Load it allows only
// system:masters. nodeRules are what every node may do besides
// what its pods need. What is allowed is counted in registry, nil: nowhere.
func New(nodeRules []rbacv1.PolicyRule, registry prometheus.Registerer) *Authorizer {
	return &Authorizer{RBAC: newRBAC(), nodes: nodes{rules: nodeRules}, allowed: newAllowances(registry)}
}

// Load reads all roles and bindings. It must return before other methods are
// called from other goroutines; then Run must run for changes to be seen.
func (z *Authorizer) Load(ctx context.Context, source Source, lookup Lookup) error {
	z.nodes.source, z.nodes.lookup = source, lookup
	return z.RBAC.load(ctx, source, lookup)
}

// Authorize implements authorizer.Authorizer. The reason of a refusal is why
// the node rules or RBAC could not tell.
func (z *Authorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if IsMaster(a.GetUser()) {
		return authorizer.DecisionAllow, "", nil
	}
	var reasons []string
	for _, authority := range []struct {
		ask     authorizer.AuthorizerFunc
		allowed prometheus.Counter
	}{{z.nodes.Authorize, z.allowed.byNodeRules}, {z.RBAC.Authorize, z.allowed.byRBAC}} {
		decision, reason, err := authority.ask(ctx, a)
		if err != nil {
			return authorizer.DecisionNoOpinion, reason, err
		}
		if decision == authorizer.DecisionAllow {
			authority.allowed.Inc()
			return decision, reason, nil
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return authorizer.DecisionNoOpinion, strings.Join(reasons, "\n"), nil
}

// RulesFor lists what u may do in a namespace, "" for the whole cluster.
func (z *Authorizer) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, nonResource, incomplete, err := z.RBAC.RulesFor(ctx, u, namespace)
	if _, isNode := NodeName(u); isNode {
		return rules, nonResource, true, fmt.Errorf("node authorizer does not support user rule resolution")
	}
	return rules, nonResource, incomplete, err
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
