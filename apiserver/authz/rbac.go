package authz

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/guard"
)

// RBAC allows what roles bound to a user allow. It answers from an index of
// all bindings by subject, kept up to date by Run.
type RBAC struct {
	index  *index
	source Source
	kinds  []*resource.Resource
	loaded []int64 // revision up to which kinds[i] has been read
}

func newRBAC() *RBAC { return &RBAC{index: newIndex()} }

func (z *RBAC) load(ctx context.Context, source Source, lookup Lookup) error {
	z.source = source
	for _, plural := range []string{"clusterroles", "roles", "clusterrolebindings", "rolebindings"} {
		r := lookup(rbacv1.GroupName, plural)
		if r == nil {
			return fmt.Errorf("RBAC needs kind %s.%s, which is not served", plural, rbacv1.GroupName)
		}
		revision, err := z.reload(ctx, r)
		if err != nil {
			return err
		}
		z.kinds, z.loaded = append(z.kinds, r), append(z.loaded, revision)
	}
	return nil
}

// Run follows changes of roles and bindings until ctx ends.
func (z *RBAC) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, r := range z.kinds {
		group.Go(guard.Try("authorization", func() error { return z.follow(ctx, r, z.loaded[i]) }))
	}
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// reload replaces what the index knows of a kind.
func (z *RBAC) reload(ctx context.Context, r *resource.Resource) (revision int64, err error) {
	items, revision, err := z.source.Snapshot(ctx, r, store.Match{Readable: true}, -1)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", r.Plural, err)
	}
	objects := make([]resource.Object, 0, len(items))
	for _, item := range items {
		objects = append(objects, item.Object())
	}
	z.index.replace(r.Plural, objects)
	return revision, nil
}

// follow applies changes after a revision, and starts over with a reload when
// the feed no longer reaches back that far.
func (z *RBAC) follow(ctx context.Context, r *resource.Resource, after int64) error {
	for {
		var problem error
		for step, err := range z.source.Watch(ctx, r, store.Match{Readable: true}, after) {
			if problem = err; err != nil {
				break
			}
			after = step.Revision
			switch e := step.Event; {
			case e == nil:
			case step.Is:
				z.index.put(e.New.Object())
			default:
				z.index.remove(r.Plural, e.Old.Object())
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if problem != nil && !errors.Is(problem, store.ErrExpired) {
			return fmt.Errorf("watch %s: %w", r.Plural, problem)
		}
		var err error
		if after, err = z.reload(ctx, r); err != nil {
			return err
		}
	}
}

// Authorize implements authorizer.Authorizer.
func (z *RBAC) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	var missing []string
	for grant := range z.index.grants(a.GetUser(), a.GetNamespace()) {
		if grant.missing != "" {
			missing = append(missing, grant.missing)
			continue
		}
		for i := range grant.rules {
			if allows(&grant.rules[i], a) {
				return authorizer.DecisionAllow, "RBAC: allowed by " + grant.String(), nil
			}
		}
	}
	switch len(missing) {
	case 0:
		return authorizer.DecisionNoOpinion, "", nil
	case 1:
		return authorizer.DecisionNoOpinion, "RBAC: " + missing[0], nil
	default:
		return authorizer.DecisionNoOpinion, "RBAC: [" + strings.Join(missing, ", ") + "]", nil
	}
}

// PolicyRules are all rules bound to u in a namespace, "" for the whole
// cluster, those of the cluster included. err tells of bindings to roles that
// are missing; the rules are those of the others.
func (z *RBAC) PolicyRules(u user.Info, namespace string) (rules []rbacv1.PolicyRule, err error) {
	var missing []error
	for grant := range z.index.grants(u, namespace) {
		if grant.missing != "" {
			missing = append(missing, errors.New(grant.missing))
		}
		rules = append(rules, grant.rules...)
	}
	return rules, utilerrors.NewAggregate(missing)
}

// RoleRules are the rules of a role as a binding in a namespace names it;
// false if there is none.
func (z *RBAC) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool) {
	return z.index.rules(ref, namespace)
}

// RulesFor implements authorizer.RuleResolver.
func (z *RBAC) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var rules []authorizer.ResourceRuleInfo
	var nonResource []authorizer.NonResourceRuleInfo
	all, err := z.PolicyRules(u, namespace)
	for _, r := range all {
		if len(r.Resources) > 0 {
			rules = append(rules, &authorizer.DefaultResourceRuleInfo{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames,
			})
		}
		if len(r.NonResourceURLs) > 0 {
			nonResource = append(nonResource, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	return rules, nonResource, false, err
}
