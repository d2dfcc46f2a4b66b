// Package authentication holds the kinds of group authentication.k8s.io, which
// are questions and not stored, and the token subresource of service accounts.
package authentication

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the rows of the group. tokens checks the tokens of
// TokenReviews; audiences are those meant when a review names none.
func Resources(tokens authenticator.Token, audiences []string) []*resource.Resource {
	return []*resource.Resource{
		selfSubjectReviews(),
		tokenReviews(tokens, audiences),
	}
}

// onlyCreate are the verbs of a question. Questions have no list kind, so
// metav1.List stands in for it.
var onlyCreate = []string{"create"}

func selfSubjectReviews() *resource.Resource {
	return resource.Define[metav1.List](resource.Definition[authenticationv1.SelfSubjectReview]{
		Group: authenticationv1.GroupName, Version: "v1", Kind: "SelfSubjectReview", Plural: "selfsubjectreviews",
		ClusterScoped: true, Verbs: onlyCreate,
		Review: func(ctx context.Context, _ resource.Call, _ *authenticationv1.SelfSubjectReview) (*authenticationv1.SelfSubjectReview, error) {
			u := request.User(ctx)
			if u == nil {
				return nil, apierrors.NewBadRequest("no user present on request")
			}
			answer := &authenticationv1.SelfSubjectReview{}
			answer.CreationTimestamp = metav1.NewTime(time.Now())
			answer.Status.UserInfo = userInfo(u)
			return answer, nil
		},
	})
}

func tokenReviews(tokens authenticator.Token, audiences []string) *resource.Resource {
	return resource.Define[metav1.List](resource.Definition[authenticationv1.TokenReview]{
		Group: authenticationv1.GroupName, Version: "v1", Kind: "TokenReview", Plural: "tokenreviews",
		ClusterScoped: true, Verbs: onlyCreate,
		Review: func(ctx context.Context, _ resource.Call, review *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
			if review.Spec.Token == "" {
				return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
			}
			wanted := review.Spec.Audiences
			if len(wanted) == 0 {
				wanted = audiences
			}
			review.Status = reviewToken(authenticator.WithAudiences(ctx, wanted), tokens, review.Spec.Token)
			return review, nil
		},
	})
}

// reviewToken says whose token it is. A token nobody knows is an answer, not
// an error.
func reviewToken(ctx context.Context, tokens authenticator.Token, token string) authenticationv1.TokenReviewStatus {
	answer, ok, err := tokens.AuthenticateToken(ctx, token)
	switch {
	case err != nil:
		return authenticationv1.TokenReviewStatus{Error: fmt.Sprintf("[invalid bearer token, %v]", err)}
	case !ok:
		return authenticationv1.TokenReviewStatus{Error: "invalid bearer token"}
	}
	return authenticationv1.TokenReviewStatus{Authenticated: true, User: userInfo(answer.User), Audiences: answer.Audiences}
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{
		Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(),
		Extra: make(map[string]authenticationv1.ExtraValue, len(u.GetExtra())),
	}
	for key, values := range u.GetExtra() {
		info.Extra[key] = values
	}
	return info
}
