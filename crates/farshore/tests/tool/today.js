// Lets a tool of 2016 run on the Node of today: it makes a buffer of a length and says an encoding with it, which was ignored then.
'use strict';

const Strict = global.Buffer;
global.Buffer = new Proxy(Strict, {
  construct: (target, args) => (typeof args[0] === 'number' ? Strict.alloc(args[0]) : Reflect.construct(target, args)),
});
