package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hostfabric/hostfabric/ipam"
)

// ErrDenied is that etcd is there but refuses this host: credentials or permissions are to be mended. It is no
// ipam.ErrSourceAway.
var ErrDenied = errors.New("etcd refuses this host")

// Times of a connection.
const (
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 3 * time.Second // gRPC's default of 2 minutes would keep hosts from an etcd that is long back
	pingAfter      = 10 * time.Second
	pingTimeout    = 5 * time.Second
)

// conn sends transactions to etcd. It logs in by itself, not by the client, which would want etcd to be there when it is
// made.
type conn struct {
	client         *clientv3.Client
	endpoints      string
	user, password string
	prefix         string
	timeout        time.Duration

	login chan struct{} // the right to touch token
	token string
	asked bool // for a token, with an answer
}

func dial(cfg Config) (*conn, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, TLS: cfg.TLS, Logger: zap.NewNop(),
		DialKeepAliveTime: pingAfter, DialKeepAliveTimeout: pingTimeout,
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(keepCause),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: reconnectFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMost},
				MinConnectTimeout: cfg.Timeout,
			}),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	return &conn{
		client: client, endpoints: strings.Join(cfg.Endpoints, ", "), user: cfg.Username, password: cfg.Password,
		prefix: cfg.Prefix, timeout: cfg.Timeout, login: make(chan struct{}, 1),
	}, nil
}

// causeKey finds in a context where to keep a request's error as gRPC has it: the client reduces "the certificate is signed
// by an unknown authority" to "context deadline exceeded".
type causeKey struct{}

func keepCause(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if cause, ok := ctx.Value(causeKey{}).(*error); ok && err != nil {
		*cause = err
	}
	return err
}

// transact sends one transaction, once.
func (c *conn) transact(ctx context.Context, conditions []clientv3.Cmp, ops ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.send(ctx, conditions, ops)
}

// query reads ranges as they are at one revision. What merely reads is tried again until the time of a request is up.
func (c *conn) query(ctx context.Context, ops ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	again := retry{first: 20 * time.Millisecond, most: 500 * time.Millisecond}
	for {
		resp, err := c.send(ctx, nil, ops)
		if err == nil || !errors.Is(err, ipam.ErrSourceAway) || !again.wait(ctx) {
			return resp, err
		}
	}
}

func (c *conn) send(ctx context.Context, conditions []clientv3.Cmp, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	token, err := c.currentToken(ctx)
	if err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		var cause error
		authorized := withToken(context.WithValue(ctx, causeKey{}, &cause), token)
		resp, err := c.client.Txn(authorized).If(conditions...).Then(ops...).Commit()
		switch {
		case err == nil:
			return resp, nil
		case !again && c.user != "" && (stale(cause) || token == "" && isAny(cause, rpctypes.ErrPermissionDenied)):
			// etcd did nothing: it looks at the token first.
			if token, err = c.renewToken(ctx, token); err != nil {
				return nil, err
			}
		default:
			return nil, c.failure(ctx, cause, err)
		}
	}
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// stale tells whether another token may help: etcd forgets them when it restarts, after some minutes without use, and
// when a user or role changes.
func stale(err error) bool {
	return isAny(err, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision)
}

// isAny tells whether etcd failed with one of its own errors.
func isAny(err error, kinds ...error) bool {
	err = rpctypes.Error(err)
	return slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
}

// currentToken returns the token of the last login, and logs in the first time: without a token etcd would take the name in a
// client's certificate for its user. It is "" while etcd asks for no login.
func (c *conn) currentToken(ctx context.Context) (string, error) {
	if c.user == "" {
		return "", nil
	}
	if err := c.lock(ctx); err != nil {
		return "", err
	}
	defer func() { <-c.login }()
	if c.asked {
		return c.token, nil
	}
	return c.logIn(ctx)
}

// renewToken logs in, unless somebody else has since old was the token.
func (c *conn) renewToken(ctx context.Context, old string) (string, error) {
	if err := c.lock(ctx); err != nil {
		return "", err
	}
	defer func() { <-c.login }()
	if c.token != old {
		return c.token, nil
	}
	return c.logIn(ctx)
}

// logIn is for who has the right to touch token.
func (c *conn) logIn(ctx context.Context) (string, error) {
	var cause error
	resp, err := c.client.Authenticate(context.WithValue(ctx, causeKey{}, &cause), c.user, c.password)
	switch {
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		c.token = ""
	case err != nil:
		return "", c.failure(ctx, cause, err)
	default:
		c.token = resp.Token
	}
	c.asked = true
	return c.token, nil
}

func (c *conn) lock(ctx context.Context) error {
	select {
	case c.login <- struct{}{}:
		return nil
	case <-ctx.Done():
		return c.failure(ctx, status.FromContextError(ctx.Err()).Err(), ctx.Err())
	}
}

// requestError is a request that failed.
type requestError struct {
	error
	unsure bool // etcd may have done what it was asked to, or may yet do it
}

func (e *requestError) Unwrap() error { return e.error }

// unsure tells whether a transaction that failed may have been made, or may yet be.
func unsure(err error) bool {
	var r *requestError
	return errors.As(err, &r) && r.unsure
}

// failure says what became of a request: cause is the error as gRPC has it, err what the client made of it.
func (c *conn) failure(ctx context.Context, cause, err error) error {
	if cause == nil {
		cause = err
	}
	message := status.Convert(cause).Message()
	switch {
	case isAny(cause, rpctypes.ErrAuthFailed):
		return c.denied("the name or the password of user %s is wrong", c.user)
	case isAny(cause, rpctypes.ErrUserEmpty):
		return c.denied("it wants a user and a password")
	case isAny(cause, rpctypes.ErrPermissionDenied):
		return c.denied("grant its user readwrite on the keys that begin with %s/", c.prefix)
	}
	switch status.Code(cause) {
	case codes.PermissionDenied, codes.Unauthenticated:
		return c.denied("%s", message)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown, codes.Aborted:
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
			return &requestError{fmt.Errorf("etcd at %s: %w", c.endpoints, context.Cause(ctx)), true}
		}
		return &requestError{fmt.Errorf("%w: etcd at %s: %s", ipam.ErrSourceAway, c.endpoints, message), true}
	}
	return &requestError{fmt.Errorf("etcd at %s: %w", c.endpoints, cause), false}
}

func (c *conn) denied(format string, args ...any) error {
	return &requestError{fmt.Errorf("%w: etcd at %s: %s", ErrDenied, c.endpoints, fmt.Sprintf(format, args...)), false}
}
