package encryption

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/uuid"
	kmsapi "k8s.io/kms/apis/v2"

	"github.com/skiff-k8s/skiff/guard"
)

// plugin encrypts by a seed of its own, which a KMS plugin encrypts. Seeds of
// others, and of earlier starts, it lets the plugin decrypt, once each.
type plugin struct {
	name    string
	timeout time.Duration
	times   Times
	metrics *metrics
	changed *notice
	log     *slog.Logger

	conn   *grpc.ClientConn
	client kmsapi.KeyManagementServiceClient
	asking singleflight.Group // by the sum of the source

	health health

	mu      sync.Mutex
	writing *writing
	known   map[[sha256.Size]byte]secret
	refused map[[sha256.Size]byte]refusal
	silent  refusal // of the plugin as such
}

// writing is the seed that writes, and until when.
type writing struct {
	source *source
	with   transformer
	until  time.Time
}

// secret decrypts what was written by a source. It is forgotten a day after the
// source was last met in storage.
type secret struct {
	with  transformer
	until time.Time
}

const remember = 24 * time.Hour

// refusal is an answer of the plugin that is not asked for again until a time.
type refusal struct {
	err   error
	until time.Time
}

// newPlugin connects to a plugin, which may not be there yet.
func (e *Encryption) newPlugin(k *KMS) (*plugin, error) {
	u, err := url.Parse(k.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("invalid endpoint %q for remote KMS provider, error: %w", k.Endpoint, err)
	}
	path := u.Path
	if strings.HasPrefix(path, "/@") {
		path = path[1:] // a socket without a file
	}
	p := &plugin{
		name: k.Name, timeout: k.Timeout.Duration, times: e.config.Times, metrics: e.metrics, changed: &e.changed, log: e.config.Log,
		known: make(map[[sha256.Size]byte]secret), refused: make(map[[sha256.Size]byte]refusal),
	}
	p.conn, err = grpc.NewClient("passthrough:///kms",
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: p.timeout}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}),
		grpc.WithUnaryInterceptor(p.measure))
	if err != nil {
		return nil, err
	}
	p.client = kmsapi.NewKeyManagementServiceClient(p.conn)
	return p, nil
}

func (p *plugin) close() { _ = p.conn.Close() } // it fails only if it is closed

func (p *plugin) measure(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
	began := time.Now()
	err := call(ctx, method, request, reply, conn, options...)
	p.metrics.called(p.name, method, time.Since(began), err)
	return err
}

func (p *plugin) encrypt(ctx context.Context, at place, out, value []byte) ([]byte, error) {
	w, err := p.writer()
	if err != nil {
		return nil, err
	}
	if time.Now().After(w.until) {
		return nil, fmt.Errorf("encryptedDEKSource with keyID hash %q expired at %s (current time is %s)",
			hashed(w.source.keyID), w.until.Format(time.RFC3339), time.Now().Format(time.RFC3339))
	}
	p.metrics.used(toStorage, p.name, w.source.keyID)
	data, err := w.with.encrypt(ctx, at, nil, value)
	if err != nil {
		return nil, err
	}
	return append(appendData(w.source.appendHead(out), len(data)), data...), nil
}

// writer is the seed that writes now. Before there is one nothing is read
// either, as in Kubernetes: nobody can say whether it is stale.
func (p *plugin) writer() (*writing, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writing == nil {
		return nil, errors.New("got unexpected nil transformer")
	}
	return p.writing, nil
}

func (p *plugin) decrypt(ctx context.Context, at place, stored []byte) ([]byte, bool, error) {
	s, data, err := openEnvelope(stored)
	if err != nil {
		return nil, false, err
	}
	w, err := p.writer()
	if err != nil {
		return nil, false, err
	}
	with, err := p.reader(ctx, s)
	if err != nil {
		return nil, false, err
	}
	p.metrics.used(fromStorage, p.name, s.keyID)
	value, stale, err := with.decrypt(ctx, at, data)
	if err != nil {
		return nil, false, err
	}
	return value, stale || s.keyID != w.source.keyID || s.kind != w.source.kind, nil
}

// reader is what decrypts by the secret of s. The plugin is asked once, and for
// a while no more if it did not answer: who reads a thousand objects at the
// start does not wait a thousand times.
func (p *plugin) reader(ctx context.Context, s *source) (transformer, error) {
	sum := s.sum()
	if with, err := p.recall(sum); with != nil || err != nil {
		return with, err
	}
	asked := p.asking.DoChan(string(sum[:]), func() (any, error) {
		var with transformer
		return &with, guard.Call("KMS plugin "+p.name, func() (err error) {
			with, err = p.learn(context.WithoutCancel(ctx), s, sum) // others wait for it too
			return err
		})
	})
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case answer := <-asked:
		if answer.Err != nil {
			return nil, answer.Err
		}
		return *answer.Val.(*transformer), nil
	}
}

// learn asks the plugin about a source and keeps the answer.
func (p *plugin) learn(ctx context.Context, s *source, sum [sha256.Size]byte) (transformer, error) {
	p.metrics.misses.Inc()
	with, err := p.ask(ctx, s)
	if err != nil {
		p.refuse(sum, err)
		return nil, err
	}
	p.remember(sum, with)
	return with, nil
}

// recall is what is known of a source; neither if nothing is.
func (p *plugin) recall(sum [sha256.Size]byte) (transformer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if found, ok := p.known[sum]; ok {
		p.known[sum] = secret{found.with, now.Add(remember)}
		return found.with, nil
	}
	for _, no := range []refusal{p.silent, p.refused[sum]} {
		if now.Before(no.until) {
			return nil, no.err
		}
	}
	return nil, nil
}

func (p *plugin) remember(sum [sha256.Size]byte, with transformer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for other, found := range p.known {
		if now.After(found.until) {
			delete(p.known, other)
		}
	}
	p.known[sum] = secret{with, now.Add(remember)}
	delete(p.refused, sum)
	p.metrics.sources.WithLabelValues(p.name).Set(float64(len(p.known)))
}

func (p *plugin) refuse(sum [sha256.Size]byte, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	no := refusal{err, time.Now().Add(p.times.Ill)}
	if code := status.Code(unwrapped(err)); code == codes.DeadlineExceeded || code == codes.Unavailable {
		p.silent = no
	}
	for other, old := range p.refused {
		if time.Now().After(old.until) {
			delete(p.refused, other)
		}
	}
	p.refused[sum] = no
}

// unwrapped is the error of gRPC in err, or err.
func unwrapped(err error) error {
	var inner interface {
		error
		GRPCStatus() *status.Status
	}
	if errors.As(err, &inner) {
		return inner
	}
	return err
}

// ask has the plugin decrypt the secret of s.
func (p *plugin) ask(ctx context.Context, s *source) (transformer, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	answer, err := p.client.Decrypt(ctx, &kmsapi.DecryptRequest{
		Ciphertext: s.encrypted, Uid: string(uuid.NewUUID()), KeyId: s.keyID, Annotations: s.annotations,
	})
	if err != nil {
		return nil, fmt.Errorf("failed to decrypt DEK, error: %w", err)
	}
	return s.open(answer.Plaintext)
}

// newWriting makes a seed and has the plugin encrypt it.
func (p *plugin) newWriting(ctx context.Context, id string, until time.Time) (*writing, error) {
	began := time.Now()
	secret := make([]byte, seedSize)
	_, _ = rand.Read(secret) // it never fails
	p.metrics.generated.Observe(time.Since(began).Seconds())
	with, err := newSeed(secret)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	answer, err := p.client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: secret, Uid: id})
	if err != nil {
		return nil, fmt.Errorf("failed to encrypt DEK, error: %w", err)
	}
	s := &source{kind: sourceSeed, encrypted: answer.Ciphertext, keyID: answer.KeyId, annotations: answer.Annotations}
	if err := s.validate(); err != nil {
		return nil, err
	}
	return &writing{source: s, with: with, until: until}, nil
}
