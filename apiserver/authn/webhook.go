package authn

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	authenticationv1 "k8s.io/api/authentication/v1"
	authenticationv1beta1 "k8s.io/api/authentication/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/apiserver/reach"
)

// WebhookConfig says whom to ask about tokens that nobody here knows.
type WebhookConfig struct {
	File    string        // a kubeconfig; empty: nobody
	Version string        // of the TokenReviews that are sent: v1, or v1beta1, which empty means
	Cache   time.Duration // how long an answer is remembered; 0: not at all
	// Audiences are those of this server.
	Audiences authenticator.Audiences
	Log       *slog.Logger
	Pause     time.Duration // before the second attempt; 0 means half a second
}

// AddFlags adds the flags of c, which are those of kube-apiserver, and sets their defaults.
func (c *WebhookConfig) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.File, "authentication-token-webhook-config-file", "", "kubeconfig of a server that is asked about bearer tokens, by TokenReviews")
	flags.StringVar(&c.Version, "authentication-token-webhook-version", "v1beta1", "version of authentication.k8s.io of the TokenReviews that are sent and expected")
	flags.DurationVar(&c.Cache, "authentication-token-webhook-cache-ttl", 2*time.Minute, "how long its answers are remembered")
}

const (
	// webhookTime is how long one answer may take, mostReview how large it may be.
	webhookTime = 30 * time.Second
	mostReview  = 1 << 20
	// webhookAttempts are made, with longer and longer pauses, while what goes wrong may pass.
	webhookAttempts = 5
)

// Webhook asks another server about tokens.
type Webhook struct {
	config     WebhookConfig
	apiVersion string
	client     *http.Client
	url        string
}

var _ authenticator.Token = (*Webhook)(nil)

// NewWebhook reads the kubeconfig. What it returns remembers answers as c says.
func NewWebhook(c WebhookConfig) (authenticator.Token, error) {
	w := &Webhook{config: c}
	switch c.Version {
	case "v1":
		w.apiVersion = authenticationv1.SchemeGroupVersion.String()
	case "v1beta1", "":
		w.apiVersion = authenticationv1beta1.SchemeGroupVersion.String()
	default:
		return nil, fmt.Errorf("unsupported authentication webhook version %q, supported versions are %q, %q", c.Version, "v1", "v1beta1")
	}
	loaded, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.File}, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	loaded.Timeout = webhookTime
	loaded.Wrap(func(next http.RoundTripper) http.RoundTripper { return reach.Limit{Next: next, Most: mostReview} })
	if w.client, err = rest.HTTPClientFor(loaded); err != nil {
		return nil, err
	}
	w.client.CheckRedirect = reach.Redirects // what is sent are tokens
	server, _, err := rest.DefaultServerUrlFor(loaded)
	if err != nil {
		return nil, err
	}
	server.RawQuery = "timeout=" + webhookTime.String()
	w.url = server.String()
	remembered := Remember(w, c.Cache, c.Cache)
	return authenticator.TokenFunc(func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
		if _, asked := authenticator.AudiencesFrom(ctx); !asked {
			ctx = authenticator.WithAudiences(ctx, c.Audiences) // so that a request and a review of its token are one question
		}
		return remembered.AuthenticateToken(ctx, token)
	}), nil
}

// AuthenticateToken implements authenticator.Token.
func (w *Webhook) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	wanted, asked := authenticator.AudiencesFrom(ctx)
	if !asked {
		wanted = w.config.Audiences
	}
	says, err := w.review(ctx, authenticationv1.TokenReviewSpec{Token: token, Audiences: wanted})
	if err != nil {
		w.config.Log.ErrorContext(ctx, "token webhook", "error", err)
		return nil, false, err
	}
	// Who says nothing of audiences knows of none but this server's.
	audiences := wanted.Intersect(w.config.Audiences)
	if len(says.Audiences) > 0 {
		audiences = wanted.Intersect(says.Audiences)
	}
	switch {
	case len(audiences) == 0:
		return nil, false, nil
	case !says.Authenticated && says.Error != "":
		return nil, false, errors.New(says.Error)
	case !says.Authenticated:
		return nil, false, nil
	}
	u := &user.DefaultInfo{Name: says.User.Username, UID: says.User.UID, Groups: says.User.Groups}
	if says.User.Extra != nil {
		u.Extra = make(map[string][]string, len(says.User.Extra))
	}
	for key, values := range says.User.Extra {
		u.Extra[key] = values
	}
	return &authenticator.Response{User: u, Audiences: audiences}, true, nil
}

// review asks, and asks again while what goes wrong may pass.
func (w *Webhook) review(ctx context.Context, spec authenticationv1.TokenReviewSpec) (*authenticationv1.TokenReviewStatus, error) {
	// Both versions have the same fields.
	body, err := json.Marshal(authenticationv1.TokenReview{TypeMeta: metav1.TypeMeta{APIVersion: w.apiVersion, Kind: "TokenReview"}, Spec: spec})
	if err != nil {
		return nil, err
	}
	var status *authenticationv1.TokenReviewStatus
	var last error
	pauses := wait.Backoff{Duration: cmp.Or(w.config.Pause, 500*time.Millisecond), Factor: 1.5, Jitter: 0.2, Steps: webhookAttempts}
	err = wait.ExponentialBackoffWithContext(ctx, pauses, func(ctx context.Context) (bool, error) {
		status, last = w.post(ctx, body)
		if mayPass(last) {
			return false, nil
		}
		return true, last
	})
	if last != nil {
		return nil, last // it says more than that there were enough attempts
	}
	return status, err
}

func (w *Webhook) post(ctx context.Context, body []byte) (*authenticationv1.TokenReviewStatus, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, */*")
	answer, err := w.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode < http.StatusOK || answer.StatusCode >= http.StatusMultipleChoices {
		after, _ := strconv.Atoi(answer.Header.Get("Retry-After")) // 0: it does not say
		return nil, apierrors.NewGenericServerResponse(answer.StatusCode, http.MethodPost, schema.GroupResource{}, "", "", after, true)
	}
	var review struct {
		metav1.TypeMeta
		Status authenticationv1.TokenReviewStatus `json:"status"`
	}
	if err := json.Unmarshal(said, &review); err != nil {
		return nil, fmt.Errorf("the answer is no TokenReview: %w", err)
	}
	if cmp.Or(review.Kind, "TokenReview") != "TokenReview" || cmp.Or(review.APIVersion, w.apiVersion) != w.apiVersion { // what it leaves out is as asked
		return nil, fmt.Errorf("the answer is a %q of %q, not a TokenReview of %q", review.Kind, review.APIVersion, w.apiVersion)
	}
	return &review.Status, nil
}

func mayPass(err error) bool {
	if _, later := apierrors.SuggestsClientDelay(err); later {
		return true
	}
	return utilnet.IsConnectionReset(err) || utilnet.IsHTTP2ConnectionLost(err) || apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err)
}
