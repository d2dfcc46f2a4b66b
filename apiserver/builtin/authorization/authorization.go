// Package authorization holds the kinds of group authorization.k8s.io: the
// questions who may do what. They are answered and not stored.
package authorization

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Authorizer answers the questions.
type Authorizer interface {
	authorizer.Authorizer
	authorizer.RuleResolver
}

// Resources are the rows of the group.
func Resources(z Authorizer) []*resource.Resource {
	return []*resource.Resource{
		localSubjectAccessReviews(z),
		selfSubjectAccessReviews(z),
		selfSubjectRulesReviews(z),
		subjectAccessReviews(z),
	}
}

// onlyCreate are the verbs of a question. Questions have no list kind, so
// metav1.List stands in for it.
var onlyCreate = []string{"create"}

func subjectAccessReviews(z Authorizer) *resource.Resource {
	return resource.Define[metav1.List](resource.Definition[authorizationv1.SubjectAccessReview]{
		Group: authorizationv1.GroupName, Version: "v1", Kind: "SubjectAccessReview", Plural: "subjectaccessreviews",
		ClusterScoped: true, Verbs: onlyCreate,
		Validate: func(review, _ *authorizationv1.SubjectAccessReview) fieldErrors {
			return append(validateSpec(review.Spec), validateMeta(review.ObjectMeta, "must be empty")...)
		},
		Review: func(ctx context.Context, _ resource.Call, review *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error) {
			review.Status = ask(ctx, z, review.Spec)
			return review, nil
		},
	})
}

func localSubjectAccessReviews(z Authorizer) *resource.Resource {
	return resource.Define[metav1.List](resource.Definition[authorizationv1.LocalSubjectAccessReview]{
		Group: authorizationv1.GroupName, Version: "v1", Kind: "LocalSubjectAccessReview", Plural: "localsubjectaccessreviews",
		Verbs: onlyCreate,
		Validate: func(review, _ *authorizationv1.LocalSubjectAccessReview) fieldErrors {
			return validateLocal(review)
		},
		Review: func(ctx context.Context, _ resource.Call, review *authorizationv1.LocalSubjectAccessReview) (*authorizationv1.LocalSubjectAccessReview, error) {
			review.Status = ask(ctx, z, review.Spec)
			return review, nil
		},
	})
}

func selfSubjectAccessReviews(z Authorizer) *resource.Resource {
	return resource.Define[metav1.List](resource.Definition[authorizationv1.SelfSubjectAccessReview]{
		Group: authorizationv1.GroupName, Version: "v1", Kind: "SelfSubjectAccessReview", Plural: "selfsubjectaccessreviews",
		ClusterScoped: true, Verbs: onlyCreate,
		Validate: func(review, _ *authorizationv1.SelfSubjectAccessReview) fieldErrors {
			errs := validateAttributes(review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
			return append(errs, validateMeta(review.ObjectMeta, "must be empty")...)
		},
		Review: func(ctx context.Context, _ resource.Call, review *authorizationv1.SelfSubjectAccessReview) (*authorizationv1.SelfSubjectAccessReview, error) {
			u := request.User(ctx)
			if u == nil {
				return nil, apierrors.NewBadRequest("no user present on request")
			}
			review.Status = decide(ctx, z, attributes(u, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes))
			return review, nil
		},
	})
}

func selfSubjectRulesReviews(z Authorizer) *resource.Resource {
	return resource.Define[metav1.List](resource.Definition[authorizationv1.SelfSubjectRulesReview]{
		Group: authorizationv1.GroupName, Version: "v1", Kind: "SelfSubjectRulesReview", Plural: "selfsubjectrulesreviews",
		ClusterScoped: true, Verbs: onlyCreate,
		Review: func(ctx context.Context, _ resource.Call, review *authorizationv1.SelfSubjectRulesReview) (*authorizationv1.SelfSubjectRulesReview, error) {
			u := request.User(ctx)
			switch {
			case u == nil:
				return nil, apierrors.NewBadRequest("no user present on request")
			case review.Spec.Namespace == "":
				return nil, apierrors.NewBadRequest("no namespace on request")
			}
			rules, nonResource, incomplete, err := z.RulesFor(ctx, u, review.Spec.Namespace)
			answer := &authorizationv1.SelfSubjectRulesReview{Status: rulesStatus(rules, nonResource)}
			answer.Status.Incomplete = incomplete
			if err != nil {
				answer.Status.EvaluationError = err.Error()
			}
			return answer, nil
		},
	})
}

func rulesStatus(rules []authorizer.ResourceRuleInfo, nonResource []authorizer.NonResourceRuleInfo) authorizationv1.SubjectRulesReviewStatus {
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    make([]authorizationv1.ResourceRule, 0, len(rules)),
		NonResourceRules: make([]authorizationv1.NonResourceRule, 0, len(nonResource)),
	}
	for _, r := range rules {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames(),
		})
	}
	for _, r := range nonResource {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: r.GetVerbs(), NonResourceURLs: r.GetNonResourceURLs(),
		})
	}
	return status
}
